//! Whether the installed rules are the wanted ones.
//!
//! nft prints rules in its own words, which differ between its versions. So the wanted rules are installed in a network
//! namespace of their own, and both are compared as nft lists them. That also shows what the kernel lacks.

use std::fmt::Write as _;

use netfilter::queue::{KernelCounters, queue_counters};
use netfilter::target::{self, Chain};

use crate::differences::differences;
use crate::install::install;
use crate::{Error, QueueForm, Ruleset, nft, queue_chain};

/// What [`check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The form of the wanted rules.
    pub form: QueueForm,
    /// Why the kernel (or nft) does not take the wanted rules; `None`: it does.
    pub refused: Option<String>,
    /// The table is there.
    pub installed: bool,
    /// Rules that differ, each with its chain: `- ` installed but not wanted, `+ ` wanted but not installed.
    pub differences: Vec<String>,
    /// Each queue as the kernel counts it; `None`: no daemon has bound it, its packets are dropped.
    pub queues: Vec<(u16, Option<KernelCounters>)>,
}

impl Report {
    /// The wanted rules are in force.
    pub fn is_good(&self) -> bool {
        self.installed && self.refused.is_none() && self.differences.is_empty()
    }
}

/// Compares; changes nothing.
pub fn check(rules: &(dyn Ruleset + Sync), form: QueueForm) -> Result<Report, Error> {
    let installed = listing(rules)?;
    let wanted = match netfilter::namespace::in_new(|| install(rules, form).and_then(|()| listing(rules)))? {
        Ok(wanted) => Ok(wanted.unwrap_or_default()),
        Err(Error::NftRefused(why)) => Err(why),
        Err(Error::Kernel(error)) => Err(error.to_string()),
        Err(error) => return Err(error),
    };
    Ok(Report {
        form,
        installed: installed.is_some(),
        differences: match (&installed, &wanted) {
            (Some(installed), Ok(wanted)) => differences(installed, wanted),
            _ => Vec::new(),
        },
        refused: wanted.err(),
        queues: rules
            .queues()
            .map(|queue| Ok((queue, queue_counters(queue)?)))
            .collect::<Result<_, Error>>()?,
    })
}

/// The table in nft's words, and to which queues the target form's chains lead, which nft does not say.
fn listing(rules: &dyn Ruleset) -> Result<Option<String>, Error> {
    let Some(mut text) = nft::list(rules.family(), rules.table())? else { return Ok(None) };
    for name in (0..rules.queues().len()).map(queue_chain) {
        let chain = Chain { family: rules.family(), table: rules.table(), name: &name };
        if let Some(queue) = target::chain_queue(chain)? {
            let _ = writeln!(text, "NFQUEUE target of {name}, queue {queue}");
        }
    }
    Ok(Some(text))
}
