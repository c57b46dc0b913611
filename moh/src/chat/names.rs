//! Users, devices and providers as people write them: `alice@a.example`.

use std::collections::HashMap;
use std::fmt;

use moh_messages::{ClientId, ProviderName, UserId};

/// A user or a provider: what can be blocked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    User(UserId),
    Provider(ProviderName),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => f.write_str(&short(user)),
            Self::Provider(provider) => write!(f, "{provider}"),
        }
    }
}

/// `alice@a.example` or `mimi://a.example/u/alice`, in any case.
pub(crate) fn parse_user(text: &str) -> Result<UserId, String> {
    let lower = text.to_ascii_lowercase();
    let user = match lower.split_once('@') {
        Some((user, provider)) => provider
            .parse()
            .and_then(|provider: ProviderName| UserId::new(&provider, user)),
        None => lower.parse(),
    };
    user.map_err(|_| format!("{text} is not a user: USER@PROVIDER, as in alice@a.example"))
}

/// `alice@a.example`.
pub(crate) fn short(user: &UserId) -> String {
    format!("{}@{}", user.user(), user.provider())
}

/// `alice@a.example/phone`.
pub(crate) fn short_client(client: &ClientId) -> String {
    format!("{}/{}", short(&client.user_id()), client.device())
}

/// The users of these clients, each once, in the order of their first clients.
pub(crate) fn users_of(clients: &[ClientId]) -> Vec<UserId> {
    let devices = devices_of(clients).into_iter();
    devices.map(|(user, _)| user).collect()
}

/// The same, with their devices.
pub(crate) fn devices_of(clients: &[ClientId]) -> Vec<(UserId, Vec<&str>)> {
    let mut places = HashMap::new();
    let mut users: Vec<(UserId, Vec<&str>)> = Vec::new();
    for client in clients {
        let user = client.user_id();
        let place = *places.entry(user.clone()).or_insert(users.len());
        match users.get_mut(place) {
            Some((_, devices)) => devices.push(client.device()),
            None => users.push((user, vec![client.device()])),
        }
    }
    users
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn enumerate(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [init @ .., last] => format!("{} and {last}", init.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_read_in_both_forms_and_in_any_case() {
        let alice: UserId = "mimi://a.example/u/alice".parse().unwrap();
        for text in [
            "alice@a.example",
            "Alice@A.Example",
            "mimi://a.example/u/alice",
        ] {
            assert_eq!(parse_user(text), Ok(alice.clone()), "{text}");
        }
        assert_eq!(short(&alice), "alice@a.example");
        for text in [
            "alice",
            "@a.example",
            "alice@",
            "alice@1.2.3.4",
            "al ice@a.example",
            "mimi://a.example/d/alice/phone",
        ] {
            assert!(parse_user(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_put_in_a_row() {
        let names = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        assert_eq!(enumerate(&[]), "");
        assert_eq!(enumerate(&names("a")), "a");
        assert_eq!(enumerate(&names("a b")), "a and b");
        assert_eq!(enumerate(&names("a b c")), "a, b and c");
    }
}
