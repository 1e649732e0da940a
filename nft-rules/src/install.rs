//! Putting rules in and taking them out.

use netfilter::queue::queue_counters;
use netfilter::target::{self, Chain};

use crate::placement::MAX_QUEUES;
use crate::{Error, QueueForm, Ruleset, nft, queue_chain};

/// Makes the installed rules those that are wanted, in one transaction, without tearing anything down: packets held in
/// queues stay held, elements of sets stay in. Doing it again changes nothing.
///
/// # Errors
/// [`Error::SetSize`]: the bound on flows has changed, which is possible only while no daemon runs.
pub fn install(rules: &dyn Ruleset, form: QueueForm) -> Result<(), Error> {
    let listing = nft::list(rules.family(), rules.table())?.unwrap_or_default();
    let before = set_of_other_size(rules, &listing)?;
    nft::apply(&(before + &rules.render(form) + &surplus_chains(rules, &listing)))?;
    if form == QueueForm::Target {
        fill_chains(rules)?;
    }
    Ok(())
}

/// Until a chain is filled, what comes to it is dropped.
fn fill_chains(rules: &dyn Ruleset) -> Result<(), Error> {
    for (index, queue) in rules.queues().enumerate() {
        let name = queue_chain(index);
        let chain = Chain { family: rules.family(), table: rules.table(), name: &name };
        if target::chain_queue(chain)? != Some(queue) {
            target::fill_chain(chain, queue)?;
        }
    }
    Ok(())
}

/// Chains of queues that are not wanted any more. They have no hook, so that no held packet is dropped.
fn surplus_chains(rules: &dyn Ruleset, listing: &str) -> String {
    let table = format!("{} {}", rules.family().name(), rules.table());
    let surplus = (rules.queues().len()..usize::from(MAX_QUEUES))
        .map(queue_chain)
        .filter(|name| listing.lines().any(|line| line.trim() == format!("chain {name} {{")));
    surplus.fold(String::new(), |text, name| {
        text + &format!("flush chain {table} {name}\ndelete chain {table} {name}\n")
    })
}

/// What must go first, in the same transaction, if the installed set has another size: the rules that use it, and the
/// set with its elements. Without a daemon nobody misses them.
fn set_of_other_size(rules: &dyn Ruleset, listing: &str) -> Result<String, Error> {
    let Some((set, size)) = rules.set() else { return Ok(String::new()) };
    let here = listing.lines().map(str::trim).skip_while(|line| *line != format!("set {set} {{"));
    let other = here.take_while(|line| *line != "}").any(|line| {
        line.strip_prefix("size ")
            .is_some_and(|found| found.split_whitespace().next() != Some(&size.to_string()))
    });
    if !other {
        return Ok(String::new());
    }
    if bound_queue(rules)?.is_some() {
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
    if let Some(queue) = bound_queue(rules)?.filter(|_| !force) {
        return Err(Error::QueueInUse(queue));
    }
    if nft::list(rules.family(), rules.table())?.is_none() {
        return Ok(false);
    }
    nft::delete(rules.family(), rules.table())?;
    Ok(true)
}

/// A queue of the role that a program has bound.
fn bound_queue(rules: &dyn Ruleset) -> Result<Option<u16>, Error> {
    for queue in rules.queues() {
        if queue_counters(queue)?.is_some() {
            return Ok(Some(queue));
        }
    }
    Ok(None)
}
