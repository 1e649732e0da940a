//! A lab that belongs to this process and goes down with it.

use std::ops::Deref;

use anyhow::Result;

use crate::lab::Lab;
use crate::process::Process;
use crate::settings::Settings;

/// A lab that goes down when dropped; if this process is killed, the next `lab up` sweeps it away.
#[derive(Debug)]
pub struct OwnedLab(Lab);

impl OwnedLab {
    /// Brings up the lab of that name.
    pub fn up(name: &str, settings: &Settings) -> Result<Self> {
        let owned = Self(Lab::new(name)?);
        owned.0.up(settings, Process::running(std::process::id()))?;
        Ok(owned)
    }
}

impl Deref for OwnedLab {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        &self.0
    }
}

impl Drop for OwnedLab {
    fn drop(&mut self) {
        if let Err(error) = self.0.down() {
            eprintln!("lab down: {error:#}");
        }
    }
}
