//! Tokens, TLS, certificates: who is let in.

use tidelog::Kind;
use tidelog::server::{Tls, Tokens};
use tidelog::ship::{Http, Report, Source};

use super::*;

const TOKENS: &str = "read 0123456789-reader\nreplicate 0123456789-copier\n\
                      write 0123456789-writer\nadmin 0123456789-master\n";

fn with(url: &str, token: &str) -> Client {
    Client::new(url, Credentials::default().token(format!("0123456789-{token}"))).unwrap()
}

#[test]
fn each_token_may_do_what_its_role_says_over_the_wire() {
    let mut leader = Leader::new();
    leader.stop();
    leader.start(options().tokens(Tokens::parse(TOKENS).unwrap()));
    let url = leader.server().url().to_owned();
    let body = "{\"op\":\"put\",\"key\":\"k\",\"value\":\"v\"}";
    assert_eq!(post(&client(&url), "/v1/records", body).0, 401);
    assert_eq!(get(&client(&url), "/v1/status").0, 401);
    assert_eq!(get(&client(&url), "/healthz").0, 200);
    assert_eq!(post(&with(&url, "reader"), "/v1/records", body).0, 403);
    assert_eq!(post(&with(&url, "copier"), "/v1/records", body).0, 403);
    assert_eq!(post(&with(&url, "nobody"), "/v1/records", body).0, 401);
    assert_eq!(post(&with(&url, "writer"), "/v1/records", body).0, 200);
    assert_eq!(get(&with(&url, "reader"), "/v1/records").0, 200);
    for (token, kind) in [
        ("reader", Some(Kind::InvalidInput)),
        ("writer", Some(Kind::InvalidInput)),
        ("copier", None),
        ("master", None),
    ] {
        let credentials = Credentials::default().token(format!("0123456789-{token}"));
        let mut source = Http::open(&url, credentials).unwrap();
        assert_eq!(source.look(&Report::default()).err().map(|e| e.kind()), kind, "{token}");
    }
    let credentials = Credentials::default().token("0123456789-copier");
    assert!(!format!("{credentials:?}").contains("copier"));
}

#[test]
fn off_the_loopback_somebody_must_have_said_who_may_come_in() {
    let open = || ServerOptions::default().listen("0.0.0.0:0".parse().unwrap());
    let error = open().bind().unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput);
    assert!(error.advice().unwrap().contains("token file"), "{error}");
    assert!(open().insecure(true).bind().is_ok());
    assert!(open().tokens(Tokens::parse(TOKENS).unwrap()).bind().is_ok());
    let (certificate, key) = identity("server");
    let tls = Tls::new(certificate.as_bytes(), key.as_bytes(), None).unwrap();
    assert!(open().tls(Some(tls)).bind().is_err(), "a certificate lets everybody in");
}

/// A certificate that vouches for itself, and its key, in PEM.
fn identity(name: &str) -> (String, String) {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), name.to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[test]
fn a_copy_comes_over_tls_and_only_from_who_shows_the_right_certificate() {
    let mut leader = Leader::new();
    leader.append(10, 3000);
    leader.stop();
    let (server, server_key) = identity("server");
    let (mine, my_key) = identity("client");
    let (other, other_key) = identity("stranger");
    let tls = |clients: Option<&str>| {
        Tls::new(server.as_bytes(), server_key.as_bytes(), clients.map(str::as_bytes)).unwrap()
    };
    let pull = |leader: &Leader, credentials: Credentials, name: &str| -> tidelog::Result<()> {
        let source = Http::open(leader.server().url(), credentials)?;
        let mut follower = tidelog::Follower::open(Log::options(), leader.path(name), source)?;
        follower.catch_up()?;
        follower.close()
    };
    let trusting = || Credentials::default().roots(server.as_bytes()).unwrap();

    leader.start(options().tls(Some(tls(None))));
    assert!(leader.server().url().starts_with("https://"));
    pull(&leader, trusting(), "trusting").unwrap();
    same(&leader, &leader.path("trusting"));
    let error = pull(&leader, Credentials::default(), "wary").unwrap_err();
    assert_eq!(error.kind(), Kind::Io, "{error}");

    leader.stop();
    leader.start(options().tls(Some(tls(Some(&mine)))));
    let showing = |certificate: &str, key: &str| {
        trusting().identity(certificate.as_bytes(), key.as_bytes()).unwrap()
    };
    pull(&leader, showing(&mine, &my_key), "known").unwrap();
    same(&leader, &leader.path("known"));
    assert!(pull(&leader, trusting(), "nameless").is_err());
    assert!(pull(&leader, showing(&other, &other_key), "stranger").is_err());
}
