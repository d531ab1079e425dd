//! HTTPS: the node's certificate and key, and whether clients must show one of their own.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::error::{Error, Kind, Result};

/// A certificate chain with its key, read from PEM.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    asks: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("asks_for_identity", &self.asks).finish_non_exhaustive()
    }
}

impl Tls {
    /// Serves with this chain and key; `clients`, certificates in PEM, are who may vouch for
    /// clients, which then must show a certificate.
    pub fn new(chain: &[u8], key: &[u8], clients: Option<&[u8]>) -> Result<Self> {
        let chain = certificates(chain, "the certificate")?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|e| wrong(format!("expected a private key in PEM: {e}")))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| wrong(format!("cannot set TLS up: {e}")))?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(clients, "who vouches for clients")? {
                    roots.add(certificate).map_err(|e| wrong(format!("a client's root: {e}")))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(
                    verifier.map_err(|e| wrong(format!("clients' roots: {e}")))?,
                )
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|e| wrong(format!("expected a certificate and its key: {e}")))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls { config: Arc::new(config), asks: clients.is_some() })
    }

    /// Whether clients must show a certificate.
    pub fn asks_for_identity(&self) -> bool {
        self.asks
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| wrong(format!("expected {what} in PEM: {e}")))?;
    match all.is_empty() {
        true => Err(wrong(format!("expected {what} in PEM, found none"))),
        false => Ok(all),
    }
}

fn wrong(message: String) -> Error {
    Error::new(Kind::InvalidInput, message)
}
