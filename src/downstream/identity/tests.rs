//! Which tokens are believed. Pure: without I/O, at given times.

use std::{path::PathBuf, sync::OnceLock, time::Duration};

use serde_json::{Value, json};

use super::{
    Algorithm, KeySet, KeySetError, KeySource, ProviderSettings, TokenError, Verified,
    token::{MAX_TOKEN, Parsed},
    tokens::{ISSUER, Issuer, by_secret, claims, claims_with, now, unsigned},
};

fn issuer() -> &'static Issuer {
    static ISSUER: OnceLock<Issuer> = OnceLock::new();
    ISSUER.get_or_init(|| Issuer::new("a"))
}

fn provider() -> ProviderSettings {
    let first = KeySet::from_jwks(issuer().jwks().as_bytes()).unwrap();
    let refresh = Duration::from_secs(300);
    ProviderSettings::new("main", ISSUER, "chat", KeySource::File { path: PathBuf::new(), first, refresh })
}

fn verify_by(provider: &ProviderSettings, token: &str) -> Result<Verified, TokenError> {
    let (KeySource::File { first: keys, .. } | KeySource::Secret(keys)) = &provider.keys else {
        unreachable!("made here")
    };
    Parsed::new(token)?.verify(0, provider, keys, now())
}

fn verify(token: &str) -> Result<Verified, TokenError> {
    verify_by(&provider(), token)
}

fn refused(claims: &Value) -> TokenError {
    verify(&issuer().token(claims)).unwrap_err()
}

#[test]
fn a_token_signed_by_any_asymmetric_algorithm_is_believed() {
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"] {
        let verified = verify(&issuer().signed(algorithm, &claims("ada", 60.0))).unwrap();
        assert_eq!(&*verified.principal, "jwt:https://id.example.com/ ada", "{algorithm}");
        assert_eq!(verified.claims["sub"], "ada");
    }
}

#[test]
fn one_changed_bit_anywhere_makes_a_token_worthless() {
    let token = issuer().token(&claims("ada", 60.0));
    for at in (0..token.len()).step_by(7) {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert!(verify(std::str::from_utf8(&changed).unwrap()).is_err(), "byte {at}");
    }
}

#[test]
fn the_time_decides_within_the_leeway() {
    assert_eq!(refused(&claims("ada", -31.0)), TokenError::Expired);
    assert!(verify(&issuer().token(&claims("ada", -28.0))).is_ok());
    let from = |seconds: f64| claims_with("ada", 600.0, &json!({ "nbf": now().as_secs_f64() + seconds }));
    assert_eq!(refused(&from(35.0)), TokenError::NotYetValid);
    assert!(verify(&issuer().token(&from(25.0))).is_ok());
    let mut eternal = claims("ada", 0.0);
    eternal["exp"] = json!(1e300);
    assert_eq!(verify(&issuer().token(&eternal)).unwrap().expires, Duration::MAX);
    for wrong in [json!("1795366964"), json!(null), json!([]), json!(true)] {
        let mut claims = claims("ada", 60.0);
        claims["exp"] = wrong;
        assert_eq!(refused(&claims).label(), "malformed");
    }
    let mut endless = claims("ada", 60.0);
    endless.as_object_mut().unwrap().remove("exp");
    assert_eq!(refused(&endless).to_string(), "it is malformed: it has no `exp`");
    assert_eq!(refused(&claims("ada", f64::from(-i32::MAX))), TokenError::Expired);
}

#[test]
fn another_issuer_or_audience_is_refused() {
    for (claim, value, error) in [
        ("iss", json!("https://id.example.com"), TokenError::Issuer),
        ("iss", json!(null), TokenError::Issuer),
        ("aud", json!("chats"), TokenError::Audience),
        ("aud", json!(["a", "b"]), TokenError::Audience),
        ("aud", json!(null), TokenError::Audience),
        ("aud", json!([["chat"]]), TokenError::Audience),
    ] {
        assert_eq!(refused(&claims_with("ada", 60.0, &json!({ claim: value }))), error, "{value}");
    }
    let several = claims_with("ada", 60.0, &json!({ "aud": ["x", "chat"] }));
    assert!(verify(&issuer().token(&several)).is_ok());
    // Who has no name takes no token that is meant for somebody.
    let nobody = ProviderSettings { audiences: Vec::new(), ..provider() };
    let mut free = claims("ada", 60.0);
    assert_eq!(verify_by(&nobody, &issuer().token(&free)).unwrap_err(), TokenError::Audience);
    free.as_object_mut().unwrap().remove("aud");
    assert!(verify_by(&nobody, &issuer().token(&free)).is_ok());
    assert_eq!(refused(&free), TokenError::Audience);
}

#[test]
fn no_algorithm_is_no_algorithm() {
    let claims = claims("ada", 60.0);
    assert_eq!(verify(&unsigned(&claims)).unwrap_err(), TokenError::Algorithm);
    for name in ["none", "None", "NONE", "", "rs256", "ES256K", "HS256 "] {
        let token = issuer().with_header(&json!({ "alg": name }), &claims);
        assert_eq!(verify(&token).unwrap_err(), TokenError::Algorithm, "{name}");
    }
}

#[test]
fn a_public_key_is_never_a_secret() {
    let claims = claims("ada", 60.0);
    // Even were the algorithm allowed: the key decides.
    let careless =
        ProviderSettings { algorithms: [Algorithm::all(true), Algorithm::all(false)].concat(), ..provider() };
    let jwks = issuer().jwks();
    let secrets = [issuer().public_der(), issuer().modulus(), jwks.into_bytes()];
    for secret in &secrets {
        for header in [
            json!({ "alg": "HS256" }),
            json!({ "alg": "HS256", "kid": issuer().kid("RS256") }),
            json!({ "alg": "HS512", "kid": issuer().kid("RS256") }),
        ] {
            let token = by_secret(&header, &claims, secret);
            assert_eq!(verify(&token).unwrap_err(), TokenError::Algorithm);
            assert_eq!(verify_by(&careless, &token).unwrap_err(), TokenError::UnknownKey);
        }
    }
}

#[test]
fn a_secret_verifies_what_is_signed_with_it_and_nothing_else() {
    let secret = b"0123456789abcdef0123456789abcdef";
    let keys = KeySet::from_secret(&[&secret[..], b"\r\n"].concat()).unwrap();
    let provider = ProviderSettings::new("main", ISSUER, "chat", KeySource::Secret(keys));
    let claims = claims("ada", 60.0);
    for algorithm in ["HS256", "HS384", "HS512"] {
        let token = by_secret(&json!({ "alg": algorithm, "kid": "any" }), &claims, secret);
        assert!(verify_by(&provider, &token).is_ok());
        let other = by_secret(&json!({ "alg": algorithm }), &claims, &[&secret[..], b"x"].concat());
        assert_eq!(verify_by(&provider, &other).unwrap_err(), TokenError::Signature);
    }
    assert_eq!(verify_by(&provider, &issuer().token(&claims)).unwrap_err(), TokenError::Algorithm);
    assert_eq!(KeySet::from_secret(b"too short\n"), Err(KeySetError::ShortSecret(9)));
}

#[test]
fn a_key_signs_only_as_itself_and_by_its_own_algorithms() {
    let claims = claims("ada", 60.0);
    let with = |header: Value| verify(&issuer().with_header(&header, &claims)).unwrap_err();
    let known = |algorithm| issuer().kid(algorithm);
    assert_eq!(with(json!({ "alg": "ES256", "kid": "p256-b" })), TokenError::UnknownKey);
    assert_eq!(with(json!({ "alg": "ES256", "kid": known("RS256") })), TokenError::UnknownKey);
    assert_eq!(verify(&Issuer::new("a").token(&claims)).unwrap_err(), TokenError::Signature);
    // Without a name, the keys that fit are tried.
    assert!(verify(&issuer().with_header(&json!({ "alg": "RS256" }), &claims)).is_ok());
    let pinned = ProviderSettings { algorithms: vec![Algorithm::Rs256], ..provider() };
    assert_eq!(verify_by(&pinned, &issuer().token(&claims)).unwrap_err(), TokenError::Algorithm);
    assert!(verify_by(&pinned, &issuer().signed("RS256", &claims)).is_ok());
}

#[test]
fn what_is_no_token_is_said_to_be_none() {
    let good = issuer().token(&claims("ada", 60.0));
    for text in
        ["", ".", "..", "...", "a.b", "a.b.c.d", "e30.e30.", "bnVsbA.bnVsbA.AAAA", &format!("{good}=")]
    {
        let label = verify(text).map(|_| ()).unwrap_err().label();
        assert!(matches!(label, "malformed" | "algorithm"), "{text}: {label}");
    }
    assert_eq!(verify(&"a".repeat(MAX_TOKEN + 1)).unwrap_err(), TokenError::TooLarge(MAX_TOKEN + 1));
    let critical = json!({ "alg": "ES256", "kid": issuer().kid("ES256"), "crit": ["b64"], "b64": false });
    let critical = issuer().with_header(&critical, &claims("ada", 60.0));
    assert!(verify(&critical).unwrap_err().to_string().contains("critical"));
}

#[test]
fn nothing_of_a_token_is_in_what_is_said_of_it() {
    let claims = claims_with("ada", -600.0, &json!({ "secret": "hunter2" }));
    let token = issuer().token(&claims);
    let error = verify(&token).unwrap_err();
    assert!(!format!("{error} {error:?} {:?}", super::Token(token.as_str().into())).contains("hunter2"));
}

#[test]
fn without_a_subject_every_token_is_somebody_else() {
    let mut anonymous = claims("", 60.0);
    anonymous.as_object_mut().unwrap().remove("sub");
    let one = verify(&issuer().token(&anonymous)).unwrap();
    anonymous["jti"] = json!(1);
    let other = verify(&issuer().token(&anonymous)).unwrap();
    assert_ne!(one.principal, other.principal);
}

#[test]
fn keys_that_cannot_verify_are_left_out_and_a_set_without_others_is_refused() {
    for (json, error) in [
        ("", "no JSON Web Key Set"),
        ("{}", "missing field `keys`"),
        (r#"{"keys":[]}"#, "none of its 0 keys"),
        (
            r#"{"keys":[{"kty":"oct","k":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}]}"#,
            "none of its 1 keys",
        ),
        (r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#, "none of its 1 keys"),
        (r#"{"keys":[{"kty":"EC","crv":"P-256","x":"AQAB","y":"AQAB"}]}"#, "none of its 1 keys"),
        (r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AQAB"}, 7, null]}"#, "none of its 3 keys"),
    ] {
        let found = KeySet::from_jwks(json.as_bytes()).unwrap_err().to_string();
        assert!(found.contains(error), "{found}");
    }
    let many = format!(r#"{{"keys":[{}]}}"#, vec!["{}"; 65].join(","));
    assert_eq!(KeySet::from_jwks(many.as_bytes()), Err(KeySetError::TooMany(65)));
    for (name, value) in [("use", json!("enc")), ("key_ops", json!(["sign"])), ("alg", json!("RS256"))] {
        let mut set: Value = serde_json::from_str(&issuer().jwks()).unwrap();
        set["keys"][1][name] = value;
        let keys = KeySet::from_jwks(set.to_string().as_bytes()).unwrap();
        assert_eq!(keys.len(), 3, "{name}");
    }
}
