//! Putting rules in and taking them out.

use netfilter::queue::queue_counters;
use netfilter::target::{self, Chain};

use crate::{Error, QUEUE_CHAIN, QueueForm, Ruleset, nft};

/// Makes the installed rules those that are wanted, in one transaction, without tearing anything down: packets held in
/// queues stay held, elements of sets stay in. Doing it again changes nothing.
pub fn install(rules: &dyn Ruleset, form: QueueForm) -> Result<(), Error> {
    nft::apply(&rules.render(form))?;
    // Until the chain is filled, what comes to it is dropped.
    let chain = queue_chain(rules);
    if form == QueueForm::Target && target::chain_queue(chain)? != Some(rules.queue()) {
        target::fill_chain(chain, rules.queue())?;
    }
    Ok(())
}

/// Deletes the table. `false`: there was none.
///
/// Danger: the kernel then drops every packet held in *every* queue of this network namespace, of whatever program.
///
/// # Errors
/// [`Error::QueueInUse`]: a program has bound the queue, and `force` is not set.
pub fn remove(rules: &dyn Ruleset, force: bool) -> Result<bool, Error> {
    if !force && queue_counters(rules.queue())?.is_some() {
        return Err(Error::QueueInUse(rules.queue()));
    }
    if nft::list(rules.family(), rules.table())?.is_none() {
        return Ok(false);
    }
    nft::delete(rules.family(), rules.table())?;
    Ok(true)
}

pub(crate) fn queue_chain(rules: &dyn Ruleset) -> Chain<'static> {
    Chain { family: rules.family(), table: rules.table(), name: QUEUE_CHAIN }
}
