//! The cluster's own certificate authority and its nodes' certificates, for the control connections between machines
//! (`cluster::identity`). Shell side: makes files.
//!
//! A directory holds `ca.crt`, `ca.key`, and `NODE.crt` and `NODE.key` of each node. A node needs the first and its own two.
//! The key of the authority stays with the operator.

#![allow(clippy::disallowed_methods, reason = "this crate is a shell: it reads and writes files")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cluster::config::Cluster;
use cluster::identity::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;

/// The authority's own certificate, days. It cannot be renewed without replacing those of all nodes.
const AUTHORITY_DAYS: u64 = 20 * 365;
/// A certificate that is valid for less than this is made anew, days.
const RENEW_DAYS: u64 = 30;
/// Clocks of hosts may differ by so much.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);
const DAY: u64 = 24 * 3600;

/// Who signs for one cluster.
pub struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The authority in `directory`, made if there is none; true if it was.
    pub fn open(directory: &Path, cluster: &str) -> Result<(Self, bool)> {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
        let parameters = authority(cluster);
        let (key, made) = match (certificate.exists(), key.exists()) {
            (true, true) => (read_key(&key)?, false),
            (false, false) => {
                let pair = KeyPair::generate()?;
                write(&key, &pair.serialize_pem(), 0o600)?;
                write(&certificate, &parameters.self_signed(&pair)?.pem(), 0o644)?;
                (pair, true)
            }
            (true, false) => bail!(
                "{}: the authority's key is not here: run this where it is kept, or remove {} to begin anew with all nodes",
                key.display(),
                certificate.display()
            ),
            (false, true) => {
                bail!("{}: the authority's certificate is missing beside its key", certificate.display())
            }
        };
        Ok((Self { directory: directory.to_owned(), issuer: Issuer::new(parameters, key) }, made))
    }

    /// Makes the certificate of `node`, valid for `days`, with a key of its own, replacing what is there.
    pub fn issue(&self, node: &str, days: u64) -> Result<()> {
        self.issue_until(node, (days * DAY) as i64)
            .with_context(|| format!("making the certificate of {node}"))
    }

    /// The same until so many seconds from now, or ago: certificates for tests.
    pub fn issue_until(&self, node: &str, valid_s: i64) -> Result<()> {
        let mut parameters = CertificateParams::new(vec![node.to_owned()])
            .context("a node's name must be a host name to stand in a certificate")?;
        parameters.distinguished_name = name(node);
        (parameters.not_before, parameters.not_after) = validity(valid_s);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A node listens, connects, or both.
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        write(&self.directory.join(format!("{node}.key")), &key.serialize_pem(), 0o600)?;
        write(&self.directory.join(format!("{node}.crt")), &certificate.pem(), 0o644)
    }
}

/// What was made.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// A new authority: every node needs its certificate and a new one of its own.
    pub authority: bool,
    /// Nodes that got a certificate.
    pub nodes: Vec<String>,
    /// Nodes whose certificate is good for a while.
    pub kept: Vec<String>,
}

/// Sees to it that each node of `cluster` has a certificate in `directory` that is valid for a month at least; with `renew`
/// all get new ones.
pub fn provide(directory: &Path, cluster: &Cluster, days: u64, renew: bool) -> Result<Made> {
    let (authority, made) = Authority::open(directory, &cluster.cluster.name)?;
    let mut result = Made { authority: made, ..Made::default() };
    let mut nodes: Vec<&String> = cluster.proxies.keys().chain(cluster.loggers.keys()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    for node in nodes {
        let good = || {
            let key = directory.join(format!("{node}.key"));
            key.exists() && Identity::check(directory, node, Duration::from_secs(RENEW_DAYS * DAY)).is_ok()
        };
        if !renew && good() {
            result.kept.push(node.clone());
        } else {
            authority.issue(node, days)?;
            result.nodes.push(node.clone());
        }
    }
    Ok(result)
}

/// All that is in the authority's certificate but its key: the same for the same cluster.
fn authority(cluster: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = name(&format!("resplice cluster {cluster}"));
    (parameters.not_before, parameters.not_after) = validity((AUTHORITY_DAYS * DAY) as i64);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn validity(seconds: i64) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - CLOCK_SKEW, now + time::Duration::seconds(seconds))
}

fn read_key(file: &Path) -> Result<KeyPair> {
    let pem = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    KeyPair::from_pem(&pem).with_context(|| format!("{}: not a private key in PEM", file.display()))
}

/// In one step, never readable with wider permissions.
fn write(file: &Path, text: &str, mode: u32) -> Result<()> {
    let new = file.with_extension("new");
    let write = || {
        let _ = fs::remove_file(&new);
        let mut output = File::options().write(true).create_new(true).mode(mode).open(&new)?;
        output.write_all(text.as_bytes())?;
        output.sync_all()?;
        fs::rename(&new, file)
    };
    write().with_context(|| format!("writing {}", file.display()))
}
