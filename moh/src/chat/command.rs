//! The commands, which are the same in both faces.

/// What somebody typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// To write to the conversation that is open.
    Say(String),
    Help,
    Connect(String),
    Accept(String),
    Decline(String),
    Disconnect(String),
    Block(String),
    Unblock(String),
    People,
    Groups,
    New {
        name: String,
        users: Vec<String>,
    },
    Open(String),
    Invite(Vec<String>),
    Remove(String),
    Rename(String),
    Leave,
    Members,
    History(Option<usize>),
    Retry,
    Devices,
    Link(String),
    Trust(String),
    Unlink(String),
    Quit,
}

/// A command as it is shown in the help.
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) arguments: &'static str,
    pub(crate) what: &'static str,
}

const fn spec(name: &'static str, arguments: &'static str, what: &'static str) -> Spec {
    Spec {
        name,
        arguments,
        what,
    }
}

/// All commands, in the order of the help.
pub(crate) const COMMANDS: [Spec; 23] = [
    spec(
        "connect",
        "USER",
        "ask USER to connect, or accept what they asked",
    ),
    spec("accept", "[USER]", "accept that USER connects"),
    spec("decline", "[USER]", "decline it"),
    spec("disconnect", "USER", "end the connection with USER"),
    spec("block", "USER|PROVIDER", "take nothing from them any more"),
    spec("unblock", "USER|PROVIDER", "take it again"),
    spec("people", "", "who is connected, who asks, who is blocked"),
    spec("groups", "", "all conversations"),
    spec(
        "open",
        "N|NAME|USER",
        "open a conversation; what you write goes there",
    ),
    spec("new", "NAME [USER...]", "make a group, and add people"),
    spec("invite", "USER...", "add people to this group"),
    spec("remove", "USER", "remove somebody from this group"),
    spec("rename", "NAME", "give this group another name"),
    spec("leave", "", "leave this group"),
    spec(
        "members",
        "",
        "who is in this conversation, with which devices, where",
    ),
    spec("history", "[N]", "the last N messages here; 20 unless said"),
    spec("retry", "", "send again what could not be sent here"),
    spec("devices", "", "your devices"),
    spec("link", "CODE", "let a new device in, which shows this CODE"),
    spec(
        "trust",
        "DEVICE",
        "take a device for yours: it comes into your conversations",
    ),
    spec("unlink", "DEVICE", "delete one of your other devices"),
    spec("help", "", "this"),
    spec("quit", "", "end the chat; nothing is lost"),
];

/// What a line means; none if it is empty.
pub(crate) fn parse(line: &str) -> Result<Option<Command>, String> {
    let line = line.trim();
    if line.is_empty() {
        return Ok(None);
    }
    let Some(rest) = line.strip_prefix('/') else {
        return Ok(Some(Command::Say(line.to_owned())));
    };
    // `//` at the beginning is a slash.
    if rest.starts_with('/') {
        return Ok(Some(Command::Say(rest.to_owned())));
    }
    let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    command(&name.to_ascii_lowercase(), rest.trim()).map(Some)
}

fn command(name: &str, rest: &str) -> Result<Command, String> {
    let usage = || usage(name);
    let one = |make: fn(String) -> Command| match words(rest)?.as_slice() {
        [word] => Ok(make(word.clone())),
        _ => Err(usage()),
    };
    let at_most_one = |make: fn(String) -> Command| match words(rest)?.as_slice() {
        [] => Ok(make(String::new())),
        [word] => Ok(make(word.clone())),
        _ => Err(usage()),
    };
    let none = |command: Command| match rest {
        "" => Ok(command),
        _ => Err(usage()),
    };
    match name {
        "connect" => one(Command::Connect),
        "accept" => at_most_one(Command::Accept),
        "decline" => at_most_one(Command::Decline),
        "disconnect" => one(Command::Disconnect),
        "block" => one(Command::Block),
        "unblock" => one(Command::Unblock),
        "people" => none(Command::People),
        "groups" => none(Command::Groups),
        "new" => match words(rest)?.split_first() {
            Some((name, users)) => Ok(Command::New {
                name: name.clone(),
                users: users.to_vec(),
            }),
            None => Err(usage()),
        },
        "open" if rest.is_empty() => Err(usage()),
        "open" => Ok(Command::Open(unquoted(rest))),
        "invite" => match words(rest)? {
            users if users.is_empty() => Err(usage()),
            users => Ok(Command::Invite(users)),
        },
        "remove" => one(Command::Remove),
        "rename" if rest.is_empty() => Err(usage()),
        "rename" => Ok(Command::Rename(unquoted(rest))),
        "leave" => none(Command::Leave),
        "members" => none(Command::Members),
        "history" if rest.is_empty() => Ok(Command::History(None)),
        "history" => match rest.parse() {
            Ok(count) if count > 0 => Ok(Command::History(Some(count))),
            _ => Err(usage()),
        },
        "retry" => none(Command::Retry),
        "devices" => none(Command::Devices),
        "link" => one(Command::Link),
        "trust" => one(Command::Trust),
        "unlink" => one(Command::Unlink),
        "help" => none(Command::Help),
        "quit" => none(Command::Quit),
        _ => Err(format!("there is no /{name}; /help shows what there is")),
    }
}

fn usage(name: &str) -> String {
    match COMMANDS.iter().find(|spec| spec.name == name) {
        Some(spec) => format!("/{name} {}: {}", spec.arguments, spec.what).replace(" :", ":"),
        None => format!("there is no /{name}"),
    }
}

/// The words of a line; several words in double quotes are one.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted
                .split_once('"')
                .ok_or("a quotation mark is missing at the end")?,
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Ok(words)
}

fn unquoted(text: &str) -> String {
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    inner.unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Command {
        parse(line).unwrap().unwrap()
    }

    #[test]
    fn what_is_typed_is_text_or_a_command() {
        let say = |text: &str| Command::Say(text.to_owned());
        assert_eq!(parsed("hello there"), say("hello there"));
        assert_eq!(parsed("//shrug"), say("/shrug"));
        assert_eq!(parse("   "), Ok(None));
        assert_eq!(
            parsed("/connect bob@b.example"),
            Command::Connect("bob@b.example".to_owned())
        );
        assert_eq!(parsed(" /QUIT "), Command::Quit);
        assert_eq!(parsed("/accept"), Command::Accept(String::new()));
        assert_eq!(parsed("/history"), Command::History(None));
        assert_eq!(parsed("/history 5"), Command::History(Some(5)));
        assert_eq!(
            parsed("/rename our trip"),
            Command::Rename("our trip".to_owned())
        );
        assert_eq!(
            parsed("/new \"our trip\" bob@b.example  carol"),
            Command::New {
                name: "our trip".to_owned(),
                users: vec!["bob@b.example".to_owned(), "carol".to_owned()],
            }
        );
    }

    #[test]
    fn what_is_no_command_is_said_with_how_it_would_be() {
        for line in [
            "/connect",
            "/connect a b",
            "/new",
            "/open",
            "/invite",
            "/leave now",
            "/history x",
            "/history 0",
            "/rename",
            "/new \"a",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert_eq!(
            parse("/connect"),
            Err("/connect USER: ask USER to connect, or accept what they asked".to_owned())
        );
        assert_eq!(
            parse("/leave now"),
            Err("/leave: leave this group".to_owned())
        );
        assert!(parse("/frobnicate").unwrap_err().contains("/help"));
    }

    #[test]
    fn every_command_of_the_help_is_one() {
        for spec in COMMANDS {
            let example = match spec.arguments {
                "" | "[USER]" => String::new(),
                "[N]" => "3".to_owned(),
                _ => "word".to_owned(),
            };
            let line = format!("/{} {example}", spec.name);
            assert!(parse(&line).is_ok(), "{line}");
        }
    }
}
