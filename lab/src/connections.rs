//! Which clients a backend serves now, from its kernel's own table.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::topology::{Node, SERVICE_PORT};

const ESTABLISHED: &str = "01";

impl Lab {
    /// Peers of the established connections to a backend's service port.
    pub fn connections(&self, node: Node) -> Result<Vec<SocketAddr>> {
        let table = self.netns(node).within(|| Ok(fs::read_to_string("/proc/thread-self/net/tcp")?))?;
        Ok(table.lines().skip(1).filter_map(served).collect())
    }

    /// The backend that serves `client`; with a proxy that hides clients, one that serves anybody.
    pub fn serving(&self, client: SocketAddr) -> Result<Node> {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let mut anybody = None;
            for node in Node::BACKENDS {
                let peers = self.connections(node)?;
                if peers.contains(&client) {
                    return Ok(node);
                }
                let hidden = |peer: &SocketAddr| peer.ip() == Node::Proxy.address();
                anybody = anybody.or(peers.iter().any(hidden).then_some(node));
            }
            if let Some(node) = anybody {
                return Ok(node);
            }
            ensure!(Instant::now() < end, "no backend serves {client}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A line of `/proc/net/tcp`: the peer, if it is an established connection to the service port.
fn served(line: &str) -> Option<SocketAddr> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, peer, state) = (fields.next()?, fields.next()?, fields.next()?);
    let local = address(local).ok()?;
    (state == ESTABLISHED && local.port() == SERVICE_PORT).then(|| address(peer).ok())?
}

/// `0203A8C0:1F90`: an address in the host's byte order, a port, both in hexadecimal.
fn address(text: &str) -> Result<SocketAddr> {
    let (ip, port) = text.split_once(':').context("no colon")?;
    let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16)?.to_ne_bytes());
    Ok(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_str_radix(port, 16)?)))
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_table_is_read() {
        let line = "   1: 02034D0A:1F90 02014D0A:A1B2 01 00000000:00000000 00:00000000 00000000  0  0 123";
        assert_eq!(served(line), Some("10.77.1.2:41394".parse().unwrap()));
        assert_eq!(served(&line.replace(" 01 ", " 06 ")), None);
        assert_eq!(served(&line.replace("1F90", "1F91")), None);
        assert_eq!(served("nonsense"), None);
    }
}
