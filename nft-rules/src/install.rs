//! Putting rules in and taking them out.

use netfilter::queue::queue_counters;
use netfilter::target::{self, Chain};

use crate::{Error, QUEUE_CHAIN, QueueForm, Ruleset, nft};

/// Makes the installed rules those that are wanted, in one transaction, without tearing anything down: packets held in
/// queues stay held, elements of sets stay in. Doing it again changes nothing.
///
/// # Errors
/// [`Error::SetSize`]: the bound on flows has changed, which is possible only while no daemon runs.
pub fn install(rules: &dyn Ruleset, form: QueueForm) -> Result<(), Error> {
    nft::apply(&(set_of_other_size(rules)? + &rules.render(form)))?;
    // Until the chain is filled, what comes to it is dropped.
    let chain = queue_chain(rules);
    if form == QueueForm::Target && target::chain_queue(chain)? != Some(rules.queue()) {
        target::fill_chain(chain, rules.queue())?;
    }
    Ok(())
}

/// What must go first, in the same transaction, if the installed set has another size: the rules that use it, and the
/// set with its elements. Without a daemon nobody misses them.
fn set_of_other_size(rules: &dyn Ruleset) -> Result<String, Error> {
    let Some((set, size)) = rules.set() else { return Ok(String::new()) };
    let Some(listing) = nft::list(rules.family(), rules.table())? else { return Ok(String::new()) };
    let here = listing.lines().map(str::trim).skip_while(|line| *line != format!("set {set} {{"));
    let other = here.take_while(|line| *line != "}").any(|line| {
        line.strip_prefix("size ")
            .is_some_and(|found| found.split_whitespace().next() != Some(&size.to_string()))
    });
    if !other {
        return Ok(String::new());
    }
    if queue_counters(rules.queue())?.is_some() {
        return Err(Error::SetSize(set));
    }
    let table = format!("{} {}", rules.family().name(), rules.table());
    Ok(format!("flush table {table}\ndelete set {table} {set}\n"))
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
