//! Large packets put back into the network through a TUN device, as the several segments of one stream that they are.
//!
//! A verdict with a payload costs more the larger the packet: it is copied into the message, into the kernel, and once more
//! over a packet that is made linear for it, which loses its segments' size and the promise to fill in their checksums, so
//! that these are computed twice in full. What is written to a TUN device with a `virtio_net_hdr`
//! (`include/uapi/linux/virtio_net.h`) is copied once and keeps both.
#![allow(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "ioctl and writev; the settings of the device are files"
)]

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::Error;
use crate::netlink::read;
use crate::socket::owned;

const NEEDS_CHECKSUM: u8 = 1;
const SEGMENTS_V4: u8 = 1;
const SEGMENTS_V6: u8 = 4;
/// Where a TCP header has its checksum.
const CHECKSUM_OFFSET: u16 = 16;
const HEADER: usize = 10;

/// One queue of the device; each thread has its own.
pub struct Injector {
    fd: OwnedFd,
}

impl Injector {
    /// Attaches a queue to the device `name` of this network namespace, which is made if it is not there and goes with its
    /// last queue.
    ///
    /// # Errors
    /// Also where reverse path filtering would drop whatever comes from the device (`net.ipv4.conf.all.rp_filter` is 1).
    pub fn open(name: &str) -> Result<Self, Error> {
        let system = |what| move |error| Error::system(what, error);
        if fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").is_ok_and(|text| text.trim() == "1") {
            return Err(Error::system(
                "inject in spite of rp_filter=1",
                io::ErrorKind::PermissionDenied.into(),
            ));
        }
        let options = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).to_owned();
        let fd = OwnedFd::from(options.open("/dev/net/tun").map_err(system("open /dev/net/tun"))?);
        let kind = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
        let mut request = request(name, kind as i16);
        // SAFETY: the kernel reads and writes one `ifreq`, which lives until after the call.
        let made = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
        if made < 0 {
            return Err(Error::system("make the TUN device", io::Error::last_os_error()));
        }
        // Nobody is to be heard or answered there. Where there is no IPv6, there is no such file.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode"), "1");
        fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0")
            .map_err(system("set rp_filter"))?;
        set_up(name).map_err(system("set the TUN device up"))?;
        Ok(Self { fd })
    }

    /// Puts a whole IP packet that carries TCP into the network, as if the device had received it: to be cut into segments
    /// of `segment` bytes of data where that is needed. Its TCP checksum field holds the pseudo-header's sum only.
    ///
    /// # Errors
    /// Then it was not.
    pub fn inject(&self, packet: &[u8], segment: u16) -> Result<(), Error> {
        let header = header(packet, segment).ok_or(Error::NotSendable("inject"))?;
        let vectors = [
            libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() },
            libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() },
        ];
        // SAFETY: both vectors describe live slices, which the kernel only reads.
        let written = unsafe { libc::writev(self.fd.as_raw_fd(), vectors.as_ptr(), 2) };
        if written < 0 { Err(Error::system("inject", io::Error::last_os_error())) } else { Ok(()) }
    }
}

/// `struct virtio_net_hdr`; `None`: no such packet.
fn header(packet: &[u8], segment: u16) -> Option<[u8; HEADER]> {
    let (tcp, kind) = match packet.first()? >> 4 {
        4 => (usize::from(packet.first()? & 15) * 4, SEGMENTS_V4),
        // Behind extension headers the kernel would look for TCP in the wrong place.
        6 if packet.get(6) == Some(&6) => (40, SEGMENTS_V6),
        _ => return None,
    };
    let headers = (tcp + usize::from(read::<1>(packet, tcp + 12)?[0] >> 4) * 4) as u16;
    let [a, b] = headers.to_ne_bytes();
    let [c, d] = segment.to_ne_bytes();
    let [e, f] = (tcp as u16).to_ne_bytes();
    let [g, h] = CHECKSUM_OFFSET.to_ne_bytes();
    (packet.len() > usize::from(headers)).then_some([NEEDS_CHECKSUM, kind, a, b, c, d, e, f, g, h])
}

fn request(name: &str, flags: i16) -> libc::ifreq {
    // SAFETY: `ifreq` is a plain C structure for which all zeros is a valid value.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    // The last byte stays zero.
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags;
    request
}

fn set_up(name: &str) -> io::Result<()> {
    // SAFETY: no pointers are involved.
    let socket = owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    let request = request(name, (libc::IFF_UP | libc::IFF_RUNNING) as i16);
    // SAFETY: the kernel reads one `ifreq`, which lives until after the call.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::header;

    #[test]
    fn the_header_says_where_the_checksum_goes() {
        let mut packet = vec![0_u8; 3000];
        (packet[0], packet[20 + 12]) = (0x45, 0x80);
        let expected = [1, 1, 52, 0, 0xa8, 0x05, 20, 0, 16, 0];
        assert_eq!(header(&packet, 1448), Some(expected).filter(|_| cfg!(target_endian = "little")));
        (packet[0], packet[40 + 12]) = (0x60, 0x50);
        assert_eq!(header(&packet, 1440), None);
        packet[6] = 6;
        assert_eq!(header(&packet, 1440).map(|header| (header[1], header[2])), Some((4, 60)));
        for length in [0, 1, 20, 32, 40, 53] {
            assert_eq!(header(&packet[..length], 1448), None, "{length}");
        }
        packet[0] = 0x55;
        assert_eq!(header(&packet, 1448), None);
    }
}
