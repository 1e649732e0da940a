//! The segment log as the engine sees it: records in order, and bytes at known positions.

use std::path::PathBuf;

use packet::{TcpSegment, Time};
use segment_log::{Flags, ReadError, Reader};
use transactionalizer::engine::Logged;
use transactionalizer::spans::{LogBytes, Record};

use super::waker::Waker;

/// Random access for reports; nothing while there is no file.
#[derive(Debug, Default)]
pub(crate) struct Bytes(Option<Reader>);

impl LogBytes for Bytes {
    fn read(&self, record: Record, skip: usize, length: usize, into: &mut Vec<u8>) -> Option<()> {
        let packet = self.0.as_ref()?.read_at(record.position?)?;
        let payload = TcpSegment::parse(&packet).ok()?.payload();
        into.extend_from_slice(payload.get(skip..skip.checked_add(length)?)?);
        Some(())
    }
}

/// What reading the log gave.
#[derive(Debug)]
pub(crate) enum Read<'a> {
    /// The next record.
    Record(Logged<'a>),
    /// The next record, which is no segment: the logger keeps its fences in the log.
    Fence,
    /// All is read.
    End,
    /// So many records were overwritten.
    Lapped(u64),
    /// The file is gone or unusable, it must be opened again.
    Lost(String),
}

/// The log's file, or that there is none yet.
#[derive(Debug)]
pub(crate) struct SegmentLog {
    path: PathBuf,
    reader: Option<Reader>,
    waker: Option<Waker>,
    /// Number of the last record read.
    last: u64,
    complained: bool,
}

impl SegmentLog {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, reader: None, waker: None, last: 0, complained: false }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    pub(crate) fn waker(&self) -> Option<&Waker> {
        self.waker.as_ref()
    }

    /// Opens the file if it is there; `None` if not, said once.
    pub(crate) fn open(&mut self) -> Option<Bytes> {
        match self.try_open() {
            Ok(bytes) => {
                tracing::info!("reading the segment log {}", self.path.display());
                self.complained = false;
                Some(bytes)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!("waiting for the segment log: {error:#}");
                }
                None
            }
        }
    }

    fn try_open(&mut self) -> anyhow::Result<Bytes> {
        let reader = Reader::open(&self.path)?.announced()?;
        let bytes = Reader::open(&self.path)?;
        let watcher = Reader::open(&self.path)?;
        let generation = reader.stats()?.generation;
        if bytes.stats()?.generation != generation || watcher.stats()?.generation != generation {
            anyhow::bail!("it was replaced while it was opened");
        }
        self.waker = Some(Waker::start(watcher)?);
        self.reader = Some(reader);
        self.last = 0;
        Ok(Bytes(Some(bytes)))
    }

    /// The file is of no more use.
    pub(crate) fn close(&mut self) {
        (self.reader, self.waker) = (None, None);
    }

    /// Number of the last record in the log.
    pub(crate) fn newest(&self) -> u64 {
        let stats = self.reader.as_ref().and_then(|reader| reader.stats().ok());
        stats.map_or(0, |stats| stats.newest)
    }

    /// Records written and not read yet.
    pub(crate) fn lag(&self) -> u64 {
        self.newest().saturating_sub(self.last)
    }

    /// Number of the last record read.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn next(&mut self) -> Read<'_> {
        let Some(reader) = &mut self.reader else { return Read::End };
        let record = match reader.next() {
            Ok(Some(record)) => record,
            Ok(None) => return Read::End,
            Err(ReadError::Lapped { records, .. }) => return Read::Lapped(records),
            Err(error) => return Read::Lost(error.to_string()),
        };
        self.last = record.number();
        if record.flags().contains(Flags::FENCED) {
            return Read::Fence;
        }
        Read::Record(Logged {
            record: Record { position: Some(record.position()), number: record.number() },
            writer: record.epoch(),
            time: Time::from_nanos(record.time_ns()),
            hold: Some(record.hold()).filter(|hold| *hold != 0 && record.flags().contains(Flags::HELD)),
            from_backend: record.flags().contains(Flags::FROM_BACKEND),
            swallowed: record.flags().contains(Flags::SWALLOWED),
            packet: record.payload(),
            left_out: record.left_out(),
        })
    }
}
