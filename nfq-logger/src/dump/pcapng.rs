//! The log as a pcapng file, for Wireshark and tshark: whole IP packets, their direction, and in a comment what the logger
//! noted and which transactions the bytes belong to.

use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};
use segment_log::Flags;

use super::line::ordinals;
use super::view::View;

/// The longest packet that the logger's queue gives (an IP packet's own limit).
const SNAP_BYTES: u32 = 0x4_0000;
/// `if_tsresol`: times are in nanoseconds.
const NANOSECONDS: u8 = 9;
/// `epb_flags`, lowest two bits: inbound (towards the backends, which the logger guards) and outbound.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Writes packets to `W`, in the order of the log.
pub struct Capture<W: Write> {
    writer: PcapNgWriter<W>,
}

impl<W: Write> Capture<W> {
    /// Writes the file's beginning. `log` names the segment log.
    pub fn begin(out: W, log: &str) -> Result<Self, PcapError> {
        let mut writer = PcapNgWriter::new(out)?;
        writer.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::RAW,
            snaplen: SNAP_BYTES,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(log)),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        })?;
        Ok(Self { writer })
    }

    /// Appends a packet. A fence is none.
    pub fn write(&mut self, view: &View<'_>) -> Result<(), PcapError> {
        if view.is_fence() {
            return Ok(());
        }
        let direction = if view.from_backend() { OUTBOUND } else { INBOUND };
        let mut options = vec![EnhancedPacketOption::Flags(direction)];
        options.extend(comment(view).map(|text| EnhancedPacketOption::Comment(Cow::Owned(text))));
        let packet = view.record.payload();
        self.writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_nanos(view.unix_ns),
            original_len: packet.len().saturating_add(view.left_out()) as u32,
            data: Cow::Borrowed(packet),
            options,
        })?;
        Ok(())
    }

    /// What it writes to.
    pub fn get_mut(&mut self) -> &mut W {
        self.writer.get_mut()
    }
}

fn comment(view: &View<'_>) -> Option<String> {
    let flags = view.record.flags().names().filter(|name| *name != "from-backend").map(str::to_owned);
    let hold = view.record.flags().contains(Flags::HELD).then(|| format!("hold {}", view.record.hold()));
    let transactions = view.transactions.as_ref().map(ordinals);
    let said: Vec<String> = flags.chain(hold).chain(transactions).collect();
    (!said.is_empty()).then(|| said.join(", "))
}
