//! The rule that queues packets, where nft has no native `queue` expression: the xtables target NFQUEUE by
//! `nft_compat`, which nft's own syntax cannot say.

use crate::Error;
use crate::netlink::{self, Attribute, Attributes, Builder};
use crate::nftables::{self, Batch, DELETE_RULE, Family, GET_RULE, NEW_CHAIN, NEW_RULE, NEW_TABLE};
use crate::socket::Socket;

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ITEM: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const TARGET_NAME: u16 = 1;
const TARGET_REVISION: u16 = 2;
const TARGET_INFO: u16 = 3;
const QUEUE_NUMBER: u16 = 1;
const REVISION: u32 = 3;

/// Names a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain<'a> {
    /// Of the table.
    pub family: Family,
    /// The table's name.
    pub table: &'a str,
    /// The chain's name.
    pub name: &'a str,
}

/// Makes "queue to `queue`, without bypass" the chain's only rule, in one transaction.
pub fn fill_chain(chain: Chain<'_>, queue: u16) -> Result<(), Error> {
    let mut socket = Socket::open()?;
    let mut batch = Batch::begin(&mut socket, chain.family);
    batch.add(DELETE_RULE, 0, |message| of_chain(message, chain));
    batch.add(NEW_RULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, |message| {
        of_chain(message, chain);
        message.nested(RULE_EXPRESSIONS, |list| {
            list.nested(LIST_ITEM, |expression| {
                expression.string(EXPRESSION_NAME, "target");
                expression.nested(EXPRESSION_DATA, |data| target(data, queue));
            });
        });
    });
    nftables::succeed("fill the queue chain", batch.commit("fill the queue chain")?)
}

/// The queue that the chain's only rule queues to, if it is as [`fill_chain`] makes it. `None`: anything else.
pub fn chain_queue(chain: Chain<'_>) -> Result<Option<u16>, Error> {
    let mut socket = Socket::open()?;
    let mut request = Builder::default();
    let head = nftables::head(&mut socket, chain.family, GET_RULE, libc::NLM_F_DUMP);
    request.message(head, |message| of_chain(message, chain));
    let mut rules = Vec::new();
    let mut errno = None;
    socket.request("read the queue chain", request.bytes(), &mut |message| {
        errno = errno.or(message.error());
        if message.kind == nftables::kind(NEW_RULE) {
            rules.push(queue_of(&message.attributes()));
        }
    })?;
    match (errno, rules.as_slice()) {
        (Some(0), [queue]) => Ok(*queue),
        (Some(0 | libc::ENOENT), _) => Ok(None),
        (Some(errno), _) => Err(Error::errno("read the queue chain", errno)),
        (None, _) => Err(Error::Answer("read the queue chain")),
    }
}

/// Whether the kernel has the `queue` expression: it checks a batch that is never applied.
pub fn native_queue_available() -> Result<bool, Error> {
    let mut socket = Socket::open()?;
    let table = format!("resplice_probe_{}", std::process::id());
    let chain = Chain { family: Family::Ip, table: &table, name: "probe" };
    let mut batch = Batch::begin(&mut socket, chain.family);
    batch.add(NEW_TABLE, libc::NLM_F_CREATE, |message| message.string(TABLE_NAME, &table));
    batch.add(NEW_CHAIN, libc::NLM_F_CREATE, |message| {
        message.string(CHAIN_TABLE, &table);
        message.string(CHAIN_NAME, chain.name);
    });
    batch.add(NEW_RULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, |message| {
        of_chain(message, chain);
        message.nested(RULE_EXPRESSIONS, |list| {
            list.nested(LIST_ITEM, |expression| {
                expression.string(EXPRESSION_NAME, "queue");
                expression.nested(EXPRESSION_DATA, |data| data.be16(QUEUE_NUMBER, 0));
            });
        });
    });
    match batch.check("probe the queue expression")? {
        0 => Ok(true),
        libc::ENOENT | libc::EOPNOTSUPP => Ok(false),
        errno => Err(Error::errno("probe the queue expression", errno)),
    }
}

fn of_chain(message: &mut Builder, chain: Chain<'_>) {
    message.string(RULE_TABLE, chain.table);
    message.string(RULE_CHAIN, chain.name);
}

/// `struct xt_NFQ_info_v3`: first queue, number of queues, flags; filled up to eight bytes.
fn target(data: &mut Builder, queue: u16) {
    let [a, b] = queue.to_ne_bytes();
    let [c, d] = 1_u16.to_ne_bytes();
    data.string(TARGET_NAME, "NFQUEUE");
    data.be32(TARGET_REVISION, REVISION);
    data.attribute(TARGET_INFO, &[a, b, c, d, 0, 0, 0, 0]);
}

fn queue_of(rule: &Attributes<'_>) -> Option<u16> {
    let mut expressions = rule.clone().find(RULE_EXPRESSIONS)?.nested();
    let expression = expressions.next()?.nested();
    if expressions.next().is_some() || !is_string(&expression.clone().find(EXPRESSION_NAME)?, "target") {
        return None;
    }
    let data = expression.find(EXPRESSION_DATA)?.nested();
    let info = data.clone().find(TARGET_INFO)?;
    let [a, b, c, d, e, f] = netlink::read::<6>(info.value(), 0)?;
    let one_without_flags = u16::from_ne_bytes([c, d]) == 1 && [e, f] == [0, 0];
    let nfqueue = is_string(&data.clone().find(TARGET_NAME)?, "NFQUEUE")
        && data.find(TARGET_REVISION)?.be32()? == REVISION;
    (nfqueue && one_without_flags).then_some(u16::from_ne_bytes([a, b]))
}

fn is_string(attribute: &Attribute<'_>, text: &str) -> bool {
    attribute.value().strip_suffix(&[0]) == Some(text.as_bytes())
}
