//! Who calls, and what routes ask for.

use std::{collections::HashMap, sync::Arc};

use http::HeaderName;

use super::Builder;
use crate::{
    config::{
        Duration,
        choice::{AlgorithmName, OnFailure, RouteAuthChoice, RouteMode, TokenPlace},
        file::{ApiKeys, ExtAuthz, Identity, Jwks, Jwt, RouteAuth, Upstream},
        node::Position,
        problem::did_you_mean,
        read::{At, AtLeastOne, Named},
    },
    downstream::identity::{
        ApiKey, ApiKeySettings, Auth, Authority, ExtAuthzSettings, JwksUrl, KeySet, KeySource, Mode,
        ProviderSettings, Rule, Settings, TokenSource,
    },
    upstream::{ClientPem, ClientTls, HttpUrl},
    wire::metadata,
};

/// How often a file of keys is looked at.
const REFRESH: std::time::Duration = std::time::Duration::from_secs(300);

/// What `identity` says, for the routes.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) authority: Arc<Authority>,
    ext_authz: Option<Arc<ExtAuthzSettings>>,
}

impl Builder<'_> {
    /// `origins`: as the file has them. `None`: there is no identity, or it has problems.
    pub(super) fn identity(
        &mut self,
        given: Option<&At<Identity>>,
        origins: Option<&[At<String>]>,
        upstreams: &Named<Upstream>,
    ) -> Option<Known> {
        let At { at, value: given } = given?;
        let mut settings = Settings::new();
        if let Some(AtLeastOne(places)) = &given.tokens {
            settings.sources = places.iter().filter_map(|place| self.source(place, origins)).collect();
        }
        let providers = given.jwt.as_ref().map(|jwt| &jwt.value.0[..]).unwrap_or_default();
        let built: Vec<_> =
            providers.iter().map(|(name, jwt)| self.provider(&name.value, jwt.as_ref()?)).collect();
        settings.forward_token = given.forward_token.unwrap_or(settings.forward_token);
        settings.cache = given.cache.map_or(settings.cache, |cache| cache as usize);
        let api_keys = given.api_keys.as_ref().map(|keys| self.api_keys(keys));
        let ext_authz = given.ext_authz.as_ref().map(|ext_authz| self.ext_authz(ext_authz, upstreams));
        if providers.is_empty() && api_keys.is_none() && ext_authz.is_none() {
            self.problems.add(*at, "`identity` knows nobody; give it `jwt`, `api_keys` or `ext_authz`");
        }
        settings.providers = built.into_iter().collect::<Option<_>>()?;
        settings.api_keys = match api_keys {
            None => None,
            Some(keys) => Some(keys?),
        };
        Some(Known { authority: Authority::new(settings), ext_authz: ext_authz.map(Arc::new) })
    }

    /// Who may call a route.
    pub(super) fn route_auth(&mut self, given: Option<&At<RouteAuthChoice>>) -> Option<Auth> {
        let Some(known) = self.known.take() else {
            if let (Some(given), false) = (given, self.has_identity) {
                self.problems.add(given.at, "`auth` needs `identity`, which says whom to believe");
            }
            return None;
        };
        let auth = self.auth_of(given, &known);
        self.known = Some(known);
        auth
    }

    fn auth_of(&mut self, given: Option<&At<RouteAuthChoice>>, known: &Known) -> Option<Auth> {
        let mut auth = RouteAuth { mode: None, jwt: None, api_keys: None, require: None, ext_authz: None };
        match given.map(|given| &given.value) {
            None => {}
            Some(RouteAuthChoice::Mode(mode)) => auth.mode = Some(*mode),
            Some(RouteAuthChoice::Rule(rule)) => auth = (**rule).clone(),
        }
        let settings = known.authority.settings();
        let names: Vec<&str> = settings.providers.iter().map(|provider| provider.name.as_str()).collect();
        let providers: Vec<usize> = match &auth.jwt {
            None => (0..names.len()).collect(),
            Some(asked) => {
                asked.iter().filter_map(|name| self.one_of("jwt provider", name, &names)).collect()
            }
        };
        let has_keys = settings.api_keys.is_some();
        if let Some(At { at, value: true }) = auth.api_keys
            && !has_keys
        {
            self.problems.add(at, "there are no API keys; say in `identity.api_keys` which there are");
        }
        if let Some(At { at, value: true }) = auth.ext_authz
            && known.ext_authz.is_none()
        {
            self.problems.add(at, "there is no authorization service; name one in `identity.ext_authz`");
        }
        let mut require = HashMap::new();
        if let Some(At { at, value: Named(claims) }) = &auth.require {
            if providers.is_empty() {
                self.problems.add(*at, "`require` is about claims of tokens, and this route takes none");
            }
            for (claim, values) in claims {
                if let Some(AtLeastOne(values)) = values {
                    require.insert(claim.value.clone(), values.clone());
                }
            }
        }
        let asked = [&auth.api_keys, &auth.ext_authz].into_iter().flatten().any(|asks| asks.value);
        let has_rule = auth.jwt.is_some() || auth.require.is_some() || asked;
        match (auth.mode, given, &auth.require) {
            (Some(RouteMode(Mode::Off)), Some(given), _) if has_rule => {
                let text = "`mode: off` looks at nothing, so the rest of this rule would do nothing; remove one of the two";
                self.problems.add(given.at, text);
            }
            (Some(RouteMode(Mode::Optional)), _, Some(require)) => {
                let text = "`mode: optional` lets everybody pass who shows no token, and such callers have no claims; \
                            remove it or `require`";
                self.problems.add(require.at, text);
            }
            _ => {}
        }
        let asks = auth.ext_authz.as_ref().is_none_or(|asks| asks.value);
        let rule = Rule {
            mode: auth.mode.map_or(Mode::Required, |RouteMode(mode)| mode),
            providers,
            api_keys: has_keys && auth.api_keys.as_ref().is_none_or(|keys| keys.value),
            require,
            ext_authz: known.ext_authz.clone().filter(|_| asks),
        };
        if let Some(given) = given
            && rule.mode == Mode::Required
            && rule.providers.is_empty()
            && auth.jwt.as_ref().is_none_or(Vec::is_empty)
            && !rule.api_keys
            && rule.ext_authz.is_none()
        {
            self.problems.add(given.at, "nobody can call this route: it takes neither tokens nor API keys; write `auth: off` if everybody may");
        }
        Some(Auth { authority: Arc::clone(&known.authority), rule: Arc::new(rule) })
    }

    fn source(&mut self, place: &At<TokenPlace>, origins: Option<&[At<String>]>) -> Option<TokenSource> {
        let at = place.at;
        match &place.value {
            TokenPlace::Authorization => Some(TokenSource::Authorization),
            TokenPlace::Header(name) => self.header(at, name).map(TokenSource::Header),
            TokenPlace::Cookie(name) => {
                // A browser sends cookies for whatever page asks.
                if origins.is_none_or(|origins| origins.iter().any(|origin| origin.value == "*")) {
                    let text = "tokens in cookies need `origins` that names whose pages may call (an empty list: only \
                                pages of the proxy's own origin), without \"*\"";
                    self.problems.add(at, text);
                }
                let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
                if !name.bytes().all(is_token) {
                    self.problems.add(at, format!("{name:?} is no name of a cookie"));
                }
                Some(TokenSource::Cookie(name.clone()))
            }
            TokenPlace::Subprotocol(prefix) => {
                let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
                if !prefix.bytes().all(is_token) {
                    let text = format!("{prefix:?} cannot begin a subprotocol; write one such as `bearer.`");
                    self.problems.add(at, text);
                }
                Some(TokenSource::Subprotocol(prefix.clone()))
            }
        }
    }

    fn provider(&mut self, name: &str, given: &Jwt) -> Option<ProviderSettings> {
        let keys = match (&given.jwks, &given.secret_file) {
            (Some(jwks), None) => self.jwks(jwks),
            (None, Some(path)) => self.read(path).ok().and_then(|secret| {
                let keys = KeySet::from_secret(&secret);
                keys.map(KeySource::Secret)
                    .map_err(|error| self.problems.add(path.at, error.to_string()))
                    .ok()
            }),
            (None, None) => {
                let text = "no key: give the provider `jwks`, or `secret_file` if it signs with a secret";
                self.problems.add(given.issuer.at, text);
                None
            }
            (Some(_), Some(path)) => {
                let text = "`jwks` and `secret_file` exclude each other; make two providers of them";
                self.problems.add(path.at, text);
                None
            }
        };
        let symmetric = given.secret_file.is_some();
        for algorithm in given.algorithms.iter().flat_map(|AtLeastOne(algorithms)| algorithms) {
            if algorithm.value.0.is_symmetric() != symmetric {
                let text = if symmetric {
                    "a secret verifies HS256, HS384 and HS512 only"
                } else {
                    "HS256, HS384 and HS512 need `secret_file`: public keys are no secrets"
                };
                self.problems.add(algorithm.at, text);
            }
        }
        let mut claims = Vec::new();
        for (claim, header) in given.claims.iter().flat_map(|Named(claims)| claims) {
            if let Some(header) = header
                && let Some(header) = self.header(header.at, &header.value)
            {
                claims.push((claim.value.clone(), header));
            }
        }
        let mut settings = ProviderSettings::new(name, &given.issuer.value, "", keys?);
        settings.audiences =
            given.audiences.as_ref().map(|AtLeastOne(names)| names.clone()).unwrap_or_default();
        if let Some(AtLeastOne(algorithms)) = &given.algorithms {
            settings.algorithms =
                algorithms.iter().map(|At { value: AlgorithmName(one), .. }| *one).collect();
        }
        if let Some(Duration(leeway)) = given.leeway {
            settings.leeway = leeway;
        }
        settings.claims = claims;
        Some(settings)
    }

    fn jwks(&mut self, given: &At<Jwks>) -> Option<KeySource> {
        let At { at, value: given } = given;
        let mut refresh = REFRESH;
        self.time(&mut refresh, given.refresh.as_ref());
        match (&given.file, &given.url) {
            (Some(file), None) => {
                let others =
                    [given.timeout.as_ref().map(|timeout| timeout.at), given.ca.as_ref().map(|ca| ca.at)];
                for at in others.into_iter().flatten() {
                    self.problems.add(at, "this is for `url`, and the keys are in a `file`");
                }
                let json = self.read(file).ok()?;
                let first = KeySet::from_jwks(&json)
                    .map_err(|error| self.problems.add(file.at, format!("{}: {error}", file.value.display())))
                    .ok()?;
                Some(KeySource::File { path: self.path(file), first, refresh })
            }
            (None, Some(url)) => {
                let parsed = url.value.parse::<HttpUrl>();
                let parsed = parsed.map_err(|error| self.problems.add(url.at, error.to_string())).ok();
                let is_https = parsed.as_ref().is_none_or(HttpUrl::is_https);
                if let (Some(ca), false) = (&given.ca, is_https) {
                    self.problems.add(ca.at, "`ca` is for https, and the URL is http");
                }
                let tls = if is_https {
                    self.roots(given.ca.as_ref(), url.at)
                } else {
                    Some(ClientTls::trusting_nobody())
                };
                let mut settings = JwksUrl::new(parsed?, tls?);
                settings.refresh = refresh;
                self.time(&mut settings.timeout, given.timeout.as_ref());
                Some(KeySource::Url(settings))
            }
            _ => {
                self.problems.add(*at, "give `jwks` one of `file` and `url`");
                None
            }
        }
    }

    fn roots(&mut self, ca: Option<&At<std::path::PathBuf>>, url: Position) -> Option<ClientTls> {
        let at = ca.map_or(url, |ca| ca.at);
        let roots = ca.map(|ca| self.read(ca)).transpose().ok()?;
        ClientTls::from_pem(ClientPem { roots: roots.as_deref(), identity: None }, None)
            .map_err(|error| self.problems.add(at, error.to_string()))
            .ok()
    }

    fn api_keys(&mut self, given: &At<ApiKeys>) -> Option<ApiKeySettings> {
        let At { at, value: given } = given;
        let mut keys = Vec::new();
        match (&given.file, &given.keys) {
            (Some(file), None) => {
                let text = String::from_utf8(self.read(file).ok()?).unwrap_or_default();
                match ApiKey::from_lines(&text) {
                    Ok(found) if found.is_empty() => {
                        self.problems.add(file.at, format!("{} has no key in it", file.value.display()));
                    }
                    Ok(found) => keys = found,
                    Err((line, error)) => {
                        let text = format!("{} in line {line}: {error}", file.value.display());
                        self.problems.add(file.at, text);
                    }
                }
            }
            (None, Some(AtLeastOne(given))) => {
                for key in given {
                    match ApiKey::new(&key.value.name, &key.value.sha256) {
                        Ok(key) => keys.push(key),
                        Err(error) => self.problems.add(key.at, error.to_string()),
                    }
                }
            }
            _ => {
                self.problems.add(*at, "give `api_keys` one of `file` and `keys`");
                return None;
            }
        }
        let mut settings = ApiKeySettings::new(keys);
        if let Some(header) = &given.header {
            settings.header = self.header(header.at, &header.value)?;
        }
        if let Some(name) = &given.name_header {
            settings.name_header = Some(self.header(name.at, &name.value)?);
        }
        settings.forward = given.forward.unwrap_or(settings.forward);
        Some(settings)
    }

    fn ext_authz(&mut self, given: &At<ExtAuthz>, upstreams: &Named<Upstream>) -> ExtAuthzSettings {
        let given = &given.value;
        let names: Vec<&str> = upstreams.0.iter().map(|(name, _)| name.value.as_str()).collect();
        if !names.is_empty() {
            self.one_of("upstream", &given.upstream, &names);
        }
        let mut settings = ExtAuthzSettings::new(&given.upstream.value);
        self.time(&mut settings.timeout, given.timeout.as_ref());
        settings.allow_on_failure = given.on_failure.is_some_and(|OnFailure(allow)| allow);
        settings.headers = given
            .headers
            .as_ref()
            .map(|names| names.iter().filter_map(|name| self.header(name.at, &name.value)).collect());
        settings
    }

    /// The place of a name among those that there are.
    fn one_of(&mut self, what: &str, name: &At<String>, names: &[&str]) -> Option<usize> {
        let found = names.iter().position(|known| *known == name.value);
        if found.is_none() {
            let meant = did_you_mean(&name.value, names.iter().copied());
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            self.problems
                .add(name.at, format!("there is no {what} {:?}{meant}; there are: {there}", name.value));
        }
        found
    }

    /// A name of metadata that is nobody else's.
    fn header(&mut self, at: Position, name: &str) -> Option<HeaderName> {
        let found = HeaderName::try_from(name.to_ascii_lowercase()).ok().filter(metadata::may_be_passed);
        if found.is_none() {
            self.problems.add(
                at,
                format!(
                    "{name:?} is no metadata that can be used: it belongs to HTTP, WebSockets or gRPC itself"
                ),
            );
        }
        found
    }
}
