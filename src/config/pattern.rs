//! What a route's `service` may be.

use crate::downstream::ServicePattern;

/// Reads `chat.v1.Chat`, `chat.v1.Chat/Talk`, `chat.v1.*` or `*`.
pub(super) fn parse(text: &str) -> Result<ServicePattern, String> {
    let invalid = |why: &str| {
        format!(
            "{text:?} is not a service: {why}; write a service (chat.v1.Chat), a method (chat.v1.Chat/Talk), a package \
             (chat.v1.*) or \"*\""
        )
    };
    if text == "*" {
        return Ok(ServicePattern::Any);
    }
    if text.starts_with('/') {
        return Err(invalid("it begins with '/'"));
    }
    if let Some(package) = text.strip_suffix('*') {
        return match package.strip_suffix('.') {
            Some(name) if is_name(name) => Ok(ServicePattern::Package(package.to_owned())),
            _ => Err(invalid("'*' stands alone or after the dot of a package")),
        };
    }
    let (service, method) = match text.split_once('/') {
        Some((service, method)) => (service, Some(method)),
        None => (text, None),
    };
    if !is_name(service) {
        return Err(invalid("names have letters, digits and '_', separated by dots"));
    }
    match method {
        None => Ok(ServicePattern::Service(service.to_owned())),
        Some(method) if is_identifier(method) => {
            Ok(ServicePattern::Method(service.to_owned(), method.to_owned()))
        }
        Some(_) => Err(invalid("after '/' comes one method's name")),
    }
}

fn is_name(text: &str) -> bool {
    text.split('.').all(is_identifier)
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_forms_are_read() {
        assert_eq!(parse("*"), Ok(ServicePattern::Any));
        assert_eq!(parse("chat.v1.*"), Ok(ServicePattern::Package("chat.v1.".into())));
        assert_eq!(parse("chat.v1.Chat"), Ok(ServicePattern::Service("chat.v1.Chat".into())));
        assert_eq!(parse("Chat/Talk"), Ok(ServicePattern::Method("Chat".into(), "Talk".into())));
    }

    #[test]
    fn other_forms_say_what_is_wrong() {
        for (text, why) in [
            ("/chat.v1.Chat", "begins with '/'"),
            ("chat*", "after the dot of a package"),
            (".*", "after the dot of a package"),
            ("chat..Chat", "separated by dots"),
            ("chat.v1.Chat/", "one method's name"),
            ("chat.v1.Chat/Talk/More", "one method's name"),
            ("chat.v1.Chat/*", "after the dot of a package"),
            ("chat-v1.Chat", "letters, digits"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
