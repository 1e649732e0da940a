//! Shell side: who this node is to the others. Read from three files that `resplice certificates` makes: the cluster's
//! authority (`ca.crt`), the node's certificate (`NODE.crt`) and its key (`NODE.key`).

#![allow(clippy::disallowed_methods, reason = "this module is a shell: it reads the files")]

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use webpki::{EndEntityCert, KeyUsage};

use crate::tls::VERSION;

/// Which file is of no use, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl std::error::Error for IdentityError {}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.file.display(), self.what, self.remedy)
    }
}

/// Certificate, key and the authority that all nodes trust. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Identity {
    pub(crate) version: u32,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
}

impl Identity {
    /// Reads and checks the files of `node` in `directory`.
    ///
    /// # Errors
    /// A file is missing, is no certificate or key, may be read by others than its owner, does not fit the others, or the
    /// certificate is not valid now.
    pub fn load(directory: &Path, node: &str) -> Result<Self, IdentityError> {
        let files = Files::new(directory, node);
        let authority = files.certificate(&files.authority)?;
        let certificate = files.certificate(&files.certificate)?;
        files.check(&authority, &certificate, Duration::ZERO)?;
        let key = files.key()?;
        let (client, server) =
            configurations(&authority, &certificate, &key).map_err(|error| files.unfit(&error))?;
        Ok(Self { version: VERSION, client: Arc::new(client), server: Arc::new(server) })
    }

    /// Greets as a program of that version of the control messages.
    #[must_use]
    pub fn of_version(self, version: u32) -> Self {
        Self { version, ..self }
    }

    /// Whether the certificate of `node` is there and valid for `longer` from now on.
    ///
    /// # Errors
    /// As [`load`](Self::load), the key left aside.
    pub fn check(directory: &Path, node: &str, longer: Duration) -> Result<(), IdentityError> {
        let files = Files::new(directory, node);
        files.check(&files.certificate(&files.authority)?, &files.certificate(&files.certificate)?, longer)
    }
}

struct Files<'n> {
    node: &'n str,
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl<'n> Files<'n> {
    fn new(directory: &Path, node: &'n str) -> Self {
        let file = |name: String| directory.join(name);
        Self {
            node,
            authority: file("ca.crt".to_owned()),
            certificate: file(format!("{node}.crt")),
            key: file(format!("{node}.key")),
        }
    }

    fn error(file: &Path, what: impl fmt::Display, remedy: impl Into<String>) -> IdentityError {
        IdentityError { file: file.to_owned(), what: what.to_string(), remedy: remedy.into() }
    }

    fn copy(&self) -> String {
        format!(
            "make the certificates with `resplice certificates` and copy ca.crt, {0}.crt and {0}.key here",
            self.node
        )
    }

    fn certificate(&self, file: &Path) -> Result<CertificateDer<'static>, IdentityError> {
        let pem = std::fs::read(file).map_err(|error| Self::error(file, error, self.copy()))?;
        CertificateDer::from_pem_slice(&pem)
            .map_err(|error| Self::error(file, format!("no certificate in PEM ({error})"), self.copy()))
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, IdentityError> {
        let file = &self.key;
        let data = std::fs::metadata(file).map_err(|error| Self::error(file, error, self.copy()))?;
        if data.mode() & 0o077 != 0 {
            let what = format!("the key may be read by others (mode {:o})", data.mode() & 0o777);
            return Err(Self::error(file, what, format!("chmod 600 {}", file.display())));
        }
        let us = rustix::process::geteuid().as_raw();
        if data.uid() != us && data.uid() != 0 {
            let what = format!("the key belongs to user {}, not to user {us}", data.uid());
            return Err(Self::error(file, what, format!("chown {us} {}", file.display())));
        }
        let pem = std::fs::read(file).map_err(|error| Self::error(file, error, self.copy()))?;
        PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|error| Self::error(file, format!("no private key in PEM ({error})"), self.copy()))
    }

    /// By the authority, for this node, valid now and `longer`.
    fn check(
        &self,
        authority: &CertificateDer<'_>,
        certificate: &CertificateDer<'_>,
        longer: Duration,
    ) -> Result<(), IdentityError> {
        let anchor = webpki::anchor_from_trusted_cert(authority).map_err(|error| {
            Self::error(&self.authority, format!("no certificate of an authority ({error})"), self.copy())
        })?;
        let wrong =
            |error| Self::error(&self.certificate, explain(&error), "renew it with `resplice certificates`");
        let parsed = EndEntityCert::try_from(certificate).map_err(wrong)?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + longer);
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        parsed
            .verify_for_usage(algorithms, &[anchor], &[], at, KeyUsage::server_auth(), None, None)
            .map_err(wrong)?;
        if !names(certificate, self.node) {
            let what = format!("the certificate is not that of node {}", self.node);
            return Err(Self::error(&self.certificate, what, self.copy()));
        }
        Ok(())
    }

    fn unfit(&self, error: &rustls::Error) -> IdentityError {
        let what = format!("key and certificate are of no use together ({error})");
        Self::error(&self.key, what, self.copy())
    }
}

/// Whether a certificate is that of this node.
pub(crate) fn names(certificate: &CertificateDer<'_>, node: &str) -> bool {
    let Ok(parsed) = EndEntityCert::try_from(certificate) else { return false };
    ServerName::try_from(node).is_ok_and(|name| parsed.verify_is_valid_for_subject_name(&name).is_ok())
}

fn explain(error: &webpki::Error) -> String {
    match error {
        webpki::Error::CertExpired { not_after, .. } => {
            format!("the certificate is not valid any more (until {} s after 1970)", not_after.as_secs())
        }
        webpki::Error::CertNotValidYet { .. } => {
            "the certificate is not valid yet: is this host's clock right?".to_owned()
        }
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            "the certificate is not of the authority in ca.crt".to_owned()
        }
        other => format!("the certificate is not valid ({other})"),
    }
}

/// TLS 1.3 only, both sides show a certificate, nothing is resumed.
fn configurations(
    authority: &CertificateDer<'static>,
    certificate: &CertificateDer<'static>,
    key: &PrivateKeyDer<'static>,
) -> Result<(ClientConfig, ServerConfig), rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    let roots = Arc::new(roots);
    let chain = vec![certificate.clone()];
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(Arc::clone(&roots))
        .with_client_auth_cert(chain.clone(), key.clone_key())?;
    client.resumption = Resumption::disabled();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key.clone_key())?;
    server.send_tls13_tickets = 0;
    Ok((client, server))
}
