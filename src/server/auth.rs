//! Who may do what: bearer tokens with roles.
//!
//! A token file has a role and a token on each line, and lines that begin with `#`. Tokens are
//! compared by their hashes, in constant time, and never shown.

use std::fmt;

use axum::http::{HeaderMap, Method, StatusCode, header};

use crate::error::{Error, Kind, Result};

use super::reply::Refusal;

/// What somebody may do; each role may do what those before it may, but for `replicate`, which
/// does not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Read records, rows and the state of the node.
    Read,
    /// The same, and pull segments.
    Replicate,
    /// Read, and append.
    Write,
    /// Everything.
    Admin,
}

impl Role {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "read" => Role::Read,
            "replicate" => Role::Replicate,
            "write" => Role::Write,
            "admin" => Role::Admin,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Replicate => "replicate",
            Role::Write => "write",
            Role::Admin => "admin",
        }
    }

    fn may(self, need: Role) -> bool {
        self == Role::Admin || need == Role::Read || self == need
    }
}

/// Tokens and their roles. Without any, everybody may do everything.
#[derive(Clone, Default)]
pub struct Tokens(Vec<(blake3::Hash, Role)>);

impl fmt::Debug for Tokens {
    /// Not even hashes: they would let guesses be tried elsewhere.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

/// Tokens shorter than this are guessed.
const LEAST_TOKEN_BYTES: usize = 16;

impl Tokens {
    /// Reads the text of a token file.
    pub fn parse(text: &str) -> Result<Self> {
        let mut tokens = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let (role, token) = (words.next().and_then(Role::parse), words.next());
            let (Some(role), Some(token), None) = (role, token, words.next()) else {
                // The line itself may hold a secret.
                return Err(wrong(format!(
                    "expected a role (read, replicate, write or admin) and a token on line {}",
                    i + 1
                )));
            };
            if token.len() < LEAST_TOKEN_BYTES {
                return Err(wrong(format!(
                    "expected a token of at least {LEAST_TOKEN_BYTES} characters on line {}, \
                     found {}",
                    i + 1,
                    token.len()
                )));
            }
            tokens.push((blake3::hash(token.as_bytes()), role));
        }
        if tokens.is_empty() {
            return Err(wrong("expected at least one token, found none".into()));
        }
        Ok(Tokens(tokens))
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a request may be answered.
    pub(super) fn check(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let Some(need) = needed(method, path).filter(|_| !self.is_empty()) else { return Ok(()) };
        let asked = |status, kind, message: &str| {
            Refusal::new(status, kind, message)
                .help("send `Authorization: Bearer TOKEN`; the command line takes --token-file")
                .header(header::WWW_AUTHENTICATE, "Bearer realm=\"tidelog\"")
        };
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = shown.and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let Some(token) = token else {
            return Err(asked(StatusCode::UNAUTHORIZED, "unauthorized", "expected a bearer token"));
        };
        let hash = blake3::hash(token.as_bytes());
        // All are compared, whichever it is.
        let mut role = None;
        for (known, its) in &self.0 {
            if *known == hash {
                role = Some(*its);
            }
        }
        match role {
            None => {
                Err(asked(StatusCode::UNAUTHORIZED, "unauthorized", "that token is not known here"))
            }
            Some(role) if !role.may(need) => Err(asked(
                StatusCode::FORBIDDEN,
                "forbidden",
                &format!(
                    "expected a token that may {}, found one for {}",
                    need.as_str(),
                    role.as_str()
                ),
            )),
            Some(_) => Ok(()),
        }
    }
}

/// What a request needs; `None` for what load balancers ask and for the page without its data.
fn needed(method: &Method, path: &str) -> Option<Role> {
    match path {
        "/" | "/healthz" | "/readyz" | "/leader" | "/replica" => None,
        "/v1/records" if method == Method::POST => Some(Role::Write),
        "/v1/fetch" => Some(Role::Replicate),
        path if ["/v1/segments", "/v1/snapshots"].iter().any(|at| {
            path.strip_prefix(at).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }) =>
        {
            Some(Role::Replicate)
        }
        "/v1/sql" => Some(Role::Read),
        _ if method == Method::GET || method == Method::HEAD => Some(Role::Read),
        _ => Some(Role::Admin),
    }
}

fn wrong(message: String) -> Error {
    Error::new(Kind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(tokens: &Tokens, method: Method, path: &str, token: Option<&str>) -> u16 {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        tokens.check(&method, path, &headers).map_or_else(|e| e.0.status.as_u16(), |()| 200)
    }

    #[test]
    fn each_role_may_do_its_own_and_no_more() {
        let text = "# for tests\nread 0123456789reader\nreplicate 0123456789copier\n\
                    write 0123456789writer\nadmin 0123456789master\n";
        let tokens = Tokens::parse(text).unwrap();
        let roles = ["reader", "copier", "writer", "master"];
        for (method, path, allowed) in [
            (Method::GET, "/v1/records", [200, 200, 200, 200]),
            (Method::GET, "/v1/table/k", [200, 200, 200, 200]),
            (Method::POST, "/v1/sql", [200, 200, 200, 200]),
            (Method::GET, "/metrics", [200, 200, 200, 200]),
            (Method::POST, "/v1/records", [403, 403, 200, 200]),
            (Method::POST, "/v1/fetch", [403, 200, 403, 200]),
            (Method::GET, "/v1/segments", [403, 200, 403, 200]),
            (Method::GET, "/v1/segments/0", [403, 200, 403, 200]),
            (Method::GET, "/v1/snapshots", [403, 200, 403, 200]),
            (Method::GET, "/v1/snapshots/x/y", [403, 200, 403, 200]),
            (Method::GET, "/v1/members", [200, 200, 200, 200]),
            (Method::POST, "/v1/members", [403, 403, 403, 200]),
            (Method::GET, "/v1/slots", [200, 200, 200, 200]),
            (Method::POST, "/v1/slots", [403, 403, 403, 200]),
            (Method::POST, "/v1/apply", [403, 403, 403, 200]),
            (Method::POST, "/v1/promote", [403, 403, 403, 200]),
        ] {
            for (role, expected) in roles.iter().zip(allowed) {
                let token = format!("0123456789{role}");
                let status = ask(&tokens, method.clone(), path, Some(&token));
                assert_eq!(status, expected, "{role} {method} {path}");
            }
            assert_eq!(ask(&tokens, method.clone(), path, None), 401);
            assert_eq!(ask(&tokens, method.clone(), path, Some("0123456789nobody")), 401);
            assert_eq!(ask(&Tokens::default(), method, path, None), 200);
        }
        assert_eq!(ask(&tokens, Method::GET, "/healthz", None), 200);
    }

    #[test]
    fn bad_token_files_are_refused_without_showing_them() {
        for bad in ["", "# none", "read", "reader 0123456789abcdef", "read short", "read a b c"] {
            let error = Tokens::parse(bad).unwrap_err();
            assert!(!error.to_string().contains("0123456789abcdef"), "{error}");
        }
        let tokens = Tokens::parse("admin 0123456789abcdef").unwrap();
        assert_eq!(format!("{tokens:?}"), "Tokens(1)");
    }
}
