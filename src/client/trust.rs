//! Which of the addresses that nodes name may be asked, and shown who asks.
//!
//! Nodes name other nodes: where the leader is, who pulls from them. Called by `route` before any such
//! address is asked; pure. Invariants:
//! - what the program itself listed is asked;
//! - nothing leads from https to http, or from http to https;
//! - with a token or a certificate to show, an address that the program did not list is asked only when a node
//!   named it whose own certificate was held against the roots (https), or when it is a host that the
//!   program listed (another port of it). Over http anybody between could have named it.

use ureq::http::Uri;

use crate::error::{Error, Kind, Result};

/// A node's address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    scheme: String,
    host: String,
    authority: String,
}

impl Place {
    fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.trim_end_matches('/').parse().ok()?;
        let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let plain = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
        plain.then(|| Place {
            scheme: scheme.to_owned(),
            host: authority.host().to_ascii_lowercase(),
            authority: authority.as_str().to_ascii_lowercase(),
        })
    }

    fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }
}

/// What the program listed, and whether it shows something that a stranger must not get.
#[derive(Debug)]
pub(super) struct Trust {
    listed: Vec<Place>,
    secret: bool,
}

impl Trust {
    /// Takes the list; an address that is none is an error.
    pub(super) fn new<'a>(
        addresses: impl IntoIterator<Item = &'a str>,
        secret: bool,
    ) -> Result<Self> {
        let mut listed: Vec<Place> = Vec::new();
        for address in addresses {
            let place = Place::parse(address).ok_or_else(|| {
                Error::new(
                    Kind::InvalidInput,
                    format!(
                        "expected a node's address such as http://127.0.0.1:7400, found {address:?}"
                    ),
                )
            })?;
            if !listed.contains(&place) {
                listed.push(place);
            }
        }
        if listed.is_empty() {
            return Err(Error::new(
                Kind::InvalidInput,
                "expected the address of at least one node, found none",
            ));
        }
        Ok(Trust { listed, secret })
    }

    /// The listed addresses, in one way of writing.
    pub(super) fn listed(&self) -> Vec<String> {
        self.listed.iter().map(Place::url).collect()
    }

    /// The address as it is asked; an error says why it is not.
    pub(super) fn admit(&self, named_by: &str, address: &str) -> Result<String, String> {
        let Some(place) = Place::parse(address) else {
            return Err(format!("{named_by} names {address:?}, which is no node's address"));
        };
        if self.listed.contains(&place) {
            return Ok(place.url());
        }
        let url = place.url();
        let Some(by) = Place::parse(named_by).filter(|by| by.scheme == place.scheme) else {
            return Err(format!("{named_by} names {url}: another scheme is not followed to"));
        };
        let known_host = self
            .listed
            .iter()
            .any(|listed| listed.host == place.host && listed.scheme == by.scheme);
        if !self.secret || by.scheme == "https" || known_host {
            return Ok(url);
        }
        Err(format!(
            "{named_by} names {url}, which gets no credentials because plain http named it; if it is one of \
             yours, list it"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_where_they_were_meant_to_go() {
        for (secret, named_by, address, admitted) in [
            // Without anything to show, any node of the same scheme.
            (false, "http://a:1", "http://z:9", true),
            (false, "https://s:1", "http://z:9", false),
            (false, "http://a:1", "https://z:9", false),
            // Listed, or another port of a listed host.
            (true, "http://a:1", "http://b:2", true),
            (true, "http://a:1", "http://B:2/", true),
            (true, "http://a:1", "http://a:7", true),
            (true, "http://a:1", "http://z:9", false),
            // A node whose certificate was checked may name others, but not without certificates.
            (true, "https://s:1", "https://z:9", true),
            (true, "https://s:1", "http://a:7", false),
            (true, "https://s:1", "http://a:1", true),
            (true, "http://a:1", "https://s:7", false),
            // No address at all.
            (false, "http://a:1", "ftp://a:1", false),
            (false, "http://a:1", "http://user@a:1", false),
            (false, "http://a:1", "http://a:1/v1/records", false),
            (false, "http://a:1", "//a:1", false),
            (false, "http://a:1", "", false),
        ] {
            let trust = Trust::new(["http://a:1", "http://b:2", "https://s:1"], secret).unwrap();
            let found = trust.admit(named_by, address);
            assert_eq!(found.is_ok(), admitted, "{secret} {named_by} {address}: {found:?}");
        }
    }

    #[test]
    fn a_list_is_read_once_each() {
        let trust = Trust::new(["http://a:1/", "http://A:1", "http://b:1"], true).unwrap();
        assert_eq!(trust.listed(), ["http://a:1", "http://b:1"]);
        assert!(Trust::new([], true).is_err());
        assert!(Trust::new(["http://a:1", "mylog"], true).is_err());
    }
}
