//! Which clients a backend serves now, from its kernel's own table.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::Lab;
use crate::topology::{Node, SERVICE_PORT};

const ESTABLISHED: &str = "01";

/// A connection that a backend serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// The client, or the proxy that hides it.
    pub peer: SocketAddr,
    /// Bytes sent but not acknowledged, or not sent yet.
    pub unsent: u32,
    /// Bytes received that the server has not read.
    pub unread: u32,
}

impl Lab {
    /// The established connections to a backend's service port.
    pub fn connections(&self, node: Node) -> Result<Vec<Served>> {
        let table = self.netns(node).within(|| {
            let [v4, v6] =
                ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}")));
            Ok(v4? + &v6.unwrap_or_default())
        })?;
        Ok(table.lines().filter_map(served).collect())
    }

    /// The backend that serves `client`. Behind a proxy that hides clients: the one with most to send.
    pub fn serving(&self, client: SocketAddr) -> Result<Node> {
        self.find_serving(|served| served.peer == client)
    }

    /// The backend with most to send, of those that serve anybody: for labs with one client connection.
    pub fn serving_any(&self) -> Result<Node> {
        self.find_serving(|_| false)
    }

    fn find_serving(&self, wanted: impl Fn(&Served) -> bool) -> Result<Node> {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            let mut busiest = None;
            for node in Node::BACKENDS {
                for served in self.connections(node)? {
                    if wanted(&served) {
                        return Ok(node);
                    }
                    busiest = busiest.max(Some((served.unsent, node)));
                }
            }
            if let Some((_, node)) = busiest {
                return Ok(node);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("no backend serves anybody")
    }
}

/// A line of `/proc/net/tcp` or `tcp6`, if it is an established connection to the service port.
fn served(line: &str) -> Option<Served> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, peer, state) = (fields.next()?, fields.next()?, fields.next()?);
    let (unsent, unread) = fields.next()?.split_once(':')?;
    let local = address(local).ok()?;
    if state != ESTABLISHED || local.port() != SERVICE_PORT {
        return None;
    }
    let number = |text| u32::from_str_radix(text, 16).ok();
    Some(Served { peer: address(peer).ok()?, unsent: number(unsent)?, unread: number(unread)? })
}

/// `0203A8C0:1F90`: an address as words in the host's byte order, a port, both in hexadecimal.
fn address(text: &str) -> Result<SocketAddr> {
    let (ip, port) = text.split_once(':').context("no colon")?;
    let port = u16::from_str_radix(port, 16)?;
    let number = |text: &str| u32::from_str_radix(text, 16).map(u32::to_ne_bytes);
    let words: Vec<[u8; 4]> = (0..ip.len() / 8)
        .map(|at| number(ip.get(8 * at..8 * at + 8).unwrap_or_default()))
        .collect::<Result<_, _>>()?;
    match words.as_slice() {
        [v4] => Ok(SocketAddr::from((*v4, port))),
        v6 => Ok(SocketAddr::from((<[u8; 16]>::try_from(v6.concat()).ok().context("not an address")?, port))),
    }
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_table_is_read() {
        let line = "   1: 02034D0A:1F90 02014D0A:A1B2 01 00000010:00000003 00:00000000 00000000  0  0 123";
        let peer = "10.77.1.2:41394".parse().unwrap();
        assert_eq!(served(line), Some(Served { peer, unsent: 16, unread: 3 }));
        assert_eq!(served(&line.replace(" 01 ", " 06 ")), None);
        assert_eq!(served(&line.replace("1F90", "1F91")), None);
        assert_eq!(served("nonsense"), None);
        let line = line
            .replace("02034D0A", "000077FD000000000300000000000000")
            .replace("02014D0A", "000077FD0100000000000000A0B00000");
        assert_eq!(served(&line).unwrap().peer, "[fd77:0:0:1::b0a0]:41394".parse().unwrap());
    }
}
