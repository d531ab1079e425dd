//! Answers: JSON, NDJSON, and errors as `{"error":{"kind","message","help"}}` with a fitting
//! status code.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;

use crate::error::{Error, Kind};

pub(super) type Answer = Result<Response<Body>, Refusal>;

/// The header that carries what a reply shows.
pub(super) const TOKEN: HeaderName = HeaderName::from_static("x-tidelog-token");

/// An error, as it is told over HTTP. Boxed: most answers are none.
#[derive(Clone, Debug)]
pub(super) struct Refusal(pub(super) Box<Said>);

/// What an error says.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) message: String,
    pub(super) help: Option<String>,
    /// Further members of the error, as JSON.
    pub(super) more: serde_json::Map<String, serde_json::Value>,
    pub(super) headers: Vec<(HeaderName, String)>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Refusal(Box::new(Said {
            status,
            kind,
            message: message.into(),
            help: None,
            more: serde_json::Map::new(),
            headers: Vec::new(),
        }))
    }

    /// The request is wrong.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, Kind::InvalidInput.word(), message)
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.0.more.insert(name.into(), value.into());
        self
    }

    /// What it says, as JSON.
    fn body(&self) -> serde_json::Value {
        let said = &self.0;
        let mut error = serde_json::Map::new();
        error.insert("kind".into(), said.kind.into());
        error.insert("message".into(), said.message.as_str().into());
        if let Some(help) = &said.help {
            error.insert("help".into(), help.as_str().into());
        }
        error.extend(said.more.clone());
        serde_json::json!({ "error": error })
    }

    /// The same as one line, for an answer that has begun.
    pub(super) fn write_line(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{}\n", self.body()).as_bytes());
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.0.headers.push((name, value.into()));
        self
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            Kind::InvalidInput | Kind::NewerVersion => StatusCode::BAD_REQUEST,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::WrongLog | Kind::NotInHistory | Kind::AlreadyExists => StatusCode::CONFLICT,
            Kind::Rejected => StatusCode::PRECONDITION_FAILED,
            Kind::Gone | Kind::Lost => StatusCode::GONE,
            Kind::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
            Kind::NotLeader
            | Kind::Fenced
            | Kind::Poisoned
            | Kind::Unknown
            | Kind::Closed
            | Kind::Interrupted
            | Kind::Locked
            | Kind::Stale
            | Kind::ReadOnly => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut refusal = Refusal::new(status, error.kind().word(), error.message());
        refusal.0.help = error.advice().map(str::to_owned);
        if let Some(offset) = error.offset() {
            refusal = refusal.with("offset", offset);
        }
        refusal
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let mut response = json(self.0.status, &self.body());
        for (name, value) in self.0.headers {
            // What cannot be a header's value is left out; the body says it all.
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// A JSON reply, with a newline for terminals.
pub(super) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    bytes(status, "application/json", format!("{body}\n").into_bytes())
}

/// A reply whose body is at hand.
pub(super) fn bytes(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Sets a header whose value is made here.
pub(super) fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
