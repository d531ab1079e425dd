//! What stands behind the `?` of a request: known names, each once, percent-decoded to bytes.

use std::time::Duration;

use super::reply::Refusal;

/// How long a request waits unless it says so.
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest wait that a request may ask for.
const MOST_WAIT: Duration = Duration::from_secs(60);

/// The parameters of a request.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, Vec<u8>)>);

impl Query {
    /// Reads a query whose names are among `known`.
    pub(super) fn read(query: Option<&str>, known: &[&str]) -> Result<Self, Refusal> {
        let mut pairs: Vec<(String, Vec<u8>)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&name) {
                return Err(Refusal::bad(format!(
                    "expected parameters among {}, found {name:?}",
                    known.join(", ")
                )));
            }
            if pairs.iter().any(|(other, _)| other == name) {
                return Err(Refusal::bad(format!("expected {name} once, found it twice")));
            }
            pairs.push((name.to_owned(), percent_decode(value, true)?));
        }
        Ok(Query(pairs))
    }

    pub(super) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &value[..])
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let Some(bytes) = self.bytes(name) else { return Ok(None) };
        let text = std::str::from_utf8(bytes);
        text.map(Some).map_err(|_| Refusal::bad(format!("expected {name} in UTF-8")))
    }

    /// Whether something is asked for: `name`, `name=true`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.text(name)? {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(other) => {
                Err(Refusal::bad(format!("expected {name}=true or false, found {other:?}")))
            }
        }
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        let wrong = || Refusal::bad(format!("expected {name} to be a number, found {text:?}"));
        number.map(Some).ok_or_else(wrong)
    }

    /// How old the data may be that is read.
    pub(super) fn max_staleness(&self) -> Result<Option<Duration>, Refusal> {
        let Some(text) = self.text("max_staleness")? else { return Ok(None) };
        let most = crate::text::parse_duration(text);
        most.map(Some).map_err(|e| Refusal::bad(format!("max_staleness: {e}")))
    }

    /// A duration such as `5s`, at most a minute.
    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, Refusal> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let duration =
            crate::text::parse_duration(text).map_err(|e| Refusal::bad(format!("{name}: {e}")))?;
        Ok(Some(duration.min(MOST_WAIT)))
    }
}

/// Takes percent signs, and in queries plus signs, back to bytes.
pub(super) fn percent_decode(text: &str, plus: bool) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err(Refusal::bad(format!(
                        "expected two hex digits behind each %, found {text:?}"
                    )));
                };
                bytes.push(u8::try_from(high * 16 + low).expect("two hex digits"));
            }
            b'+' if plus => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_once_and_only_those_that_are_known() {
        let query = Query::read(Some("from=7&wait=5s&key=a%2Fb+c%ff"), &["from", "wait", "key"]);
        let query = query.unwrap();
        assert_eq!(query.number("from").unwrap(), Some(7));
        assert_eq!(query.duration("wait").unwrap(), Some(Duration::from_secs(5)));
        assert_eq!(query.bytes("key"), Some(&b"a/b c\xff"[..]));
        assert!(query.text("key").is_err());
        assert_eq!(query.number("to").unwrap(), None);
        for bad in ["from=1&from=2", "form=1", "from=%2", "from=%zz"] {
            assert!(Query::read(Some(bad), &["from"]).is_err(), "{bad}");
        }
        for bad in ["from=", "from=-1", "from=+1", "from=1e3", "from=99999999999999999999"] {
            assert!(Query::read(Some(bad), &["from"]).unwrap().number("from").is_err(), "{bad}");
        }
        let long = Query::read(Some("wait=9999h"), &["wait"]).unwrap();
        assert_eq!(long.duration("wait").unwrap(), Some(MOST_WAIT));
    }
}
