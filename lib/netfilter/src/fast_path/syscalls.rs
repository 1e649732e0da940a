//! bpf(2).
#![allow(unsafe_code, reason = "bpf(2) and if_nameindex(3)")]

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::socket::owned;

const MAP_CREATE: i64 = 0;
const MAP_LOOKUP: i64 = 1;
const MAP_UPDATE: i64 = 2;
const MAP_DELETE: i64 = 3;
const MAP_NEXT_KEY: i64 = 4;
const PROGRAM_LOAD: i64 = 5;
const PROGRAM_ATTACH: i64 = 8;
const PROGRAM_DETACH: i64 = 9;
const PROGRAM_BY_ID: i64 = 13;
const MAP_BY_ID: i64 = 14;
const INFO: i64 = 15;
const MAP_LOOKUP_AND_DELETE: i64 = 21;
const QUERY: i64 = 16;

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const ARRAY_OF_MAPS: u32 = 12;
const RING: u32 = 27;
const NO_PREALLOCATION: u32 = 1;
const CLASSIFIER: u32 = 3;
const TCX_INGRESS: u32 = 46;
const REPLACE: u32 = 1 << 2;
/// Programs at one interface that are looked at.
const PROGRAMS: usize = 64;

/// Steps through a map: more than it has elements, however often one goes meanwhile.
const STEPS: usize = 1 << 22;

/// By this name a daemon knows the program of an earlier one.
const NAME: &[u8] = b"resplice_fast";
/// What the kernel says of a program, at most: a log that is longer than this hides its end from Linux before 6.4.
const LOG_BYTES: usize = 16 << 20;

/// `union bpf_attr`, filled in place by place.
pub(super) struct Attributes([u8; 128]);

impl Attributes {
    pub(super) fn new() -> Self {
        Self([0; 128])
    }

    fn bytes(mut self, at: usize, value: &[u8]) -> Self {
        if let Some(place) = self.0.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
        self
    }

    pub(super) fn word(self, at: usize, value: u32) -> Self {
        self.bytes(at, &value.to_ne_bytes())
    }

    pub(super) fn pointer(self, at: usize, value: *const u8) -> Self {
        self.bytes(at, &(value as u64).to_ne_bytes())
    }

    /// What the kernel answered in place.
    pub(super) fn word_at(&self, at: usize) -> u32 {
        crate::netlink::read(&self.0, at).map(u32::from_ne_bytes).unwrap_or_default()
    }

    /// # Safety
    /// What pointers in it point to is alive and as long as the kernel will read or write there.
    pub(super) unsafe fn call(&mut self, command: i64) -> io::Result<i32> {
        // SAFETY: the attributes are alive and of the length given; for what they point to the caller answers.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
    }
}

pub(super) fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

/// A hash map whose elements are allocated when they are needed.
pub(super) fn create_map(key: usize, value: usize, elements: u32) -> io::Result<OwnedFd> {
    let attributes = Attributes::new().word(0, HASH).word(4, key as u32).word(8, value as u32);
    let mut attributes = attributes.word(12, elements).word(16, NO_PREALLOCATION).bytes(28, NAME);
    // SAFETY: there are no pointers in it.
    owned(unsafe { attributes.call(MAP_CREATE) }?)
}

/// A map of one element, with a key of four bytes of zero.
pub(super) fn create_cell(value: usize) -> io::Result<OwnedFd> {
    let attributes = Attributes::new().word(0, ARRAY).word(4, 4).word(8, value as u32);
    let mut attributes = attributes.word(12, 1).bytes(28, NAME);
    // SAFETY: there are no pointers in it.
    owned(unsafe { attributes.call(MAP_CREATE) }?)
}

/// Records of packets, `bytes` in all: a power of two, and whole pages.
pub(super) fn create_ring(bytes: u32) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::new().word(0, RING).word(12, bytes).bytes(28, NAME);
    // SAFETY: there are no pointers in it.
    owned(unsafe { attributes.call(MAP_CREATE) }?)
}

/// The maps, by their place: all of the kind of the first one.
pub(super) fn create_list(maps: &[OwnedFd]) -> io::Result<OwnedFd> {
    let first = maps.first().ok_or(io::ErrorKind::InvalidInput)?;
    let attributes = Attributes::new().word(0, ARRAY_OF_MAPS).word(4, 4).word(8, 4);
    let mut attributes = attributes.word(12, maps.len() as u32).word(20, raw(first.as_fd())).bytes(28, NAME);
    // SAFETY: there are no pointers in it.
    let list = owned(unsafe { attributes.call(MAP_CREATE) }?)?;
    for (place, map) in (0_u32..).zip(maps) {
        update(list.as_fd(), &place.to_ne_bytes(), &raw(map.as_fd()).to_ne_bytes())?;
    }
    Ok(list)
}

/// `key` and `value` have the lengths that the map was created with.
pub(super) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attributes =
        Attributes::new().word(0, raw(map)).pointer(8, key.as_ptr()).pointer(16, value.as_ptr());
    // SAFETY: both are alive and, as the caller promises, as long as the map's.
    unsafe { attributes.call(MAP_UPDATE) }.map(drop)
}

/// Whether an element stays that is read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Get {
    /// It does.
    Look,
    /// It does not.
    Take,
}

/// False: it was not there. `key` and `value` have the lengths that the map was created with.
pub(super) fn get(map: BorrowedFd<'_>, get: Get, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attributes =
        Attributes::new().word(0, raw(map)).pointer(8, key.as_ptr()).pointer(16, value.as_mut_ptr());
    let command = match get {
        Get::Look => MAP_LOOKUP,
        Get::Take => MAP_LOOKUP_AND_DELETE,
    };
    // SAFETY: both are alive, not used otherwise meanwhile, and, as the caller promises, as long as the map's.
    found(unsafe { attributes.call(command) })
}

fn found(result: io::Result<i32>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// False: it was not there.
pub(super) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    let mut attributes = Attributes::new().word(0, raw(map)).pointer(8, key.as_ptr());
    // SAFETY: the key is alive and, as the caller promises, as long as the map's.
    found(unsafe { attributes.call(MAP_DELETE) })
}

/// The kernel checks the program; what it says of one that it does not take is in the error.
pub(super) fn load(code: &[[u8; 8]]) -> io::Result<OwnedFd> {
    let plain = || {
        let attributes = Attributes::new().word(0, CLASSIFIER).word(4, code.len() as u32);
        attributes
            .pointer(8, code.as_ptr().cast())
            .pointer(16, c"Dual MIT/GPL".as_ptr().cast())
            .bytes(48, NAME)
    };
    // SAFETY: code and licence are alive, the former as long as said, the latter ends with a zero.
    let refused = match unsafe { plain().call(PROGRAM_LOAD) } {
        Ok(fd) => return owned(fd),
        Err(error) => error,
    };
    let mut log = vec![0_u8; LOG_BYTES];
    let mut logged = plain().word(24, 1).word(28, LOG_BYTES as u32).pointer(32, log.as_mut_ptr());
    // SAFETY: as before; the log is alive, not used otherwise meanwhile, and as long as said.
    if let Ok(fd) = unsafe { logged.call(PROGRAM_LOAD) } {
        return owned(fd);
    }
    let text = String::from_utf8_lossy(&log);
    let text = text.trim_end_matches('\0').trim_end();
    let end = text.len().saturating_sub(4000);
    Err(io::Error::new(refused.kind(), format!("{refused}: {}", text.get(end..).unwrap_or(text))))
}

/// Attaches the program where packets come in, in the place of an earlier daemon's.
pub(super) fn attach(program: BorrowedFd<'_>, interface: u32) -> io::Result<()> {
    let earlier = earlier(interface)?;
    let mut attributes = Attributes::new().word(0, interface).word(4, raw(program)).word(8, TCX_INGRESS);
    if let Some(earlier) = &earlier {
        attributes = attributes.word(12, REPLACE).word(16, earlier.as_raw_fd() as u32);
    }
    // SAFETY: there are no pointers in it.
    unsafe { attributes.call(PROGRAM_ATTACH) }.map(drop)
}

/// Detaches an earlier daemon's program.
pub(super) fn detach(interface: u32) -> io::Result<()> {
    let Some(earlier) = earlier(interface)? else { return Ok(()) };
    let attributes = Attributes::new().word(0, interface).word(4, earlier.as_raw_fd() as u32);
    // SAFETY: there are no pointers in it.
    unsafe { attributes.word(8, TCX_INGRESS).call(PROGRAM_DETACH) }.map(drop)
}

fn earlier(interface: u32) -> io::Result<Option<OwnedFd>> {
    let mut ids = [0_u32; PROGRAMS];
    let attributes = Attributes::new().word(0, interface).word(4, TCX_INGRESS);
    let mut attributes = attributes.pointer(16, ids.as_mut_ptr().cast()).word(24, PROGRAMS as u32);
    // SAFETY: the ids are alive, not used otherwise meanwhile, and as many as said.
    unsafe { attributes.call(QUERY) }?;
    for id in ids.into_iter().filter(|id| *id != 0) {
        // SAFETY: there are no pointers in it.
        let program = owned(unsafe { Attributes::new().word(0, id).call(PROGRAM_BY_ID) }?)?;
        if name(&program)?.starts_with(NAME) {
            return Ok(Some(program));
        }
    }
    Ok(None)
}

/// Of `struct bpf_prog_info`.
fn name(program: &OwnedFd) -> io::Result<[u8; 16]> {
    let mut info = [0_u8; 80];
    // SAFETY: there are no pointers in it.
    unsafe { inform(program, &mut info) }?;
    Ok(crate::netlink::read(&info, 64).unwrap_or_default())
}

/// The map of an earlier daemon's program, if its keys and values have these lengths.
pub(super) fn earlier_map(key: usize, value: usize) -> io::Result<Option<OwnedFd>> {
    for interface in interfaces()? {
        if let Some(program) = earlier(interface)? {
            return map_of(&program, [key as u32, value as u32]);
        }
    }
    Ok(None)
}

fn map_of(program: &OwnedFd, lengths: [u32; 2]) -> io::Result<Option<OwnedFd>> {
    let (mut info, mut ids) = (Attributes::new(), [0_u32; 1]);
    // `struct bpf_prog_info`: the number of maps, and where their numbers are wanted.
    info = info.word(52, ids.len() as u32).pointer(56, ids.as_mut_ptr().cast());
    // SAFETY: the numbers are alive, not used otherwise meanwhile, and as many as said.
    unsafe { inform(program, info.0.get_mut(..80).unwrap_or_default()) }?;
    let [id] = ids;
    if id == 0 {
        return Ok(None);
    }
    // SAFETY: there are no pointers in it.
    let map = owned(unsafe { Attributes::new().word(0, id).call(MAP_BY_ID) }?)?;
    let mut info = [0_u8; 80];
    // SAFETY: there are no pointers in it.
    unsafe { inform(&map, &mut info) }?;
    // `struct bpf_map_info`.
    let length = |at| crate::netlink::read(&info, at).map(u32::from_ne_bytes);
    Ok((lengths.map(Some) == [length(8), length(12)]).then_some(map))
}

/// Fills in what the kernel knows of a program or map.
///
/// # Safety
/// What pointers in `info` point to is alive and as long as the kernel will write there.
unsafe fn inform(of: &OwnedFd, info: &mut [u8]) -> io::Result<()> {
    let attributes = Attributes::new().word(0, of.as_raw_fd() as u32).word(4, info.len() as u32);
    // SAFETY: the info is alive, not used otherwise meanwhile, and as long as said; for the rest the caller answers.
    unsafe { attributes.pointer(8, info.as_mut_ptr()).call(INFO) }.map(drop)
}

/// All elements of a map whose keys and values have these lengths. One that comes or goes meanwhile may be missing.
pub(super) fn read_all<const K: usize, const V: usize>(
    map: BorrowedFd<'_>,
) -> io::Result<BTreeMap<[u8; K], [u8; V]>> {
    let mut found = BTreeMap::new();
    let (mut last, mut next) = (None::<[u8; K]>, [0; K]);
    for _ in 0..STEPS {
        let from = last.as_ref().map_or(std::ptr::null(), |key| key.as_ptr());
        let attributes = Attributes::new().word(0, raw(map)).pointer(8, from);
        let mut attributes = attributes.pointer(16, next.as_mut_ptr());
        // SAFETY: both keys are alive, as long as the map's, and `next` is not used otherwise meanwhile; null asks for the first.
        if !self::found(unsafe { attributes.call(MAP_NEXT_KEY) })? {
            return Ok(found);
        }
        let mut value = [0; V];
        if get(map, Get::Look, &next, &mut value)? {
            found.insert(next, value);
        }
        // If it has gone, the kernel begins anew.
        last = Some(next);
    }
    Ok(found)
}

/// Numbers of this network namespace's Ethernet interfaces.
pub(super) fn interfaces() -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    // SAFETY: the list ends with an entry of index 0 and is freed once, after its last use; names are C strings in it.
    unsafe {
        let list = libc::if_nameindex();
        if list.is_null() {
            return Err(io::Error::last_os_error());
        }
        let mut entry = list;
        while (*entry).if_index != 0 {
            if is_ethernet(CStr::from_ptr((*entry).if_name))? {
                found.push((*entry).if_index);
            }
            entry = entry.add(1);
        }
        libc::if_freenameindex(list);
    }
    Ok(found)
}

fn is_ethernet(name: &CStr) -> io::Result<bool> {
    // SAFETY: no pointers are involved.
    let socket = owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: `ifreq` is a plain C structure for which all zeros is a valid value.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.to_bytes()) {
        *to = *from as libc::c_char;
    }
    // SAFETY: the kernel reads and writes one `ifreq`, which lives until after the call.
    let asked = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR as _, &raw mut request) };
    // SAFETY: after success the kernel has filled in this member.
    Ok(asked == 0 && unsafe { request.ifr_ifru.ifru_hwaddr.sa_family } == libc::ARPHRD_ETHER)
}
