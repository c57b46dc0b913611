//! What the messages of this chat are inside.
//!
//! To the protocol, the content of a message is bytes. Here it is a JSON object:
//!
//! ```json
//! {"id": "3f0a9c52d1e7b684", "text": "Hello"}
//! {"id": "90b1c6e2aa04d7f3", "name": "holiday"}
//! ```
//!
//! - `text`: what somebody wrote.
//! - `name`: what the group is called from now on. Whoever adds people says it again, since they
//!   cannot read what was said before.
//! - `id`: up to 64 bytes, chosen at random by the sender. A message that may have been sent is
//!   sent again with the same `id`; one whose `id` was there before, from the same client in the
//!   same group, is left out.
//!
//! Other members are ignored. Bytes that are no such object are shown as they are, where they are
//! UTF-8.

use serde_json::{Map, Value, json};

/// The longest `id`, in bytes.
const MAX_ID_BYTES: usize = 64;
/// The longest name of a group, in characters; the rest is cut off.
const MAX_NAME_CHARS: usize = 100;

/// The content of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// Tells a message from another one of the same sender.
    pub(crate) id: Option<String>,
    pub(crate) body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Text(String),
    /// The group has this name.
    Name(String),
    /// It is of some other application: so many bytes.
    Unknown(usize),
}

impl Content {
    pub(crate) fn text(id: &str, text: &str) -> Self {
        Self {
            id: Some(id.to_owned()),
            body: Body::Text(text.to_owned()),
        }
    }

    pub(crate) fn name(id: &str, name: &str) -> Self {
        Self {
            id: Some(id.to_owned()),
            body: Body::Name(name.to_owned()),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut object = match &self.body {
            Body::Text(text) => json!({ "text": text }),
            Body::Name(name) => json!({ "name": name }),
            Body::Unknown(_) => json!({}),
        };
        if let Some(id) = &self.id {
            object["id"] = json!(id);
        }
        object.to_string().into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        if let Some(content) = serde_json::from_slice(bytes).ok().and_then(of_object) {
            return content;
        }
        let body = match std::str::from_utf8(bytes) {
            Ok(text) => Body::Text(text.to_owned()),
            Err(_) => Body::Unknown(bytes.len()),
        };
        Self { id: None, body }
    }
}

fn of_object(object: Map<String, Value>) -> Option<Content> {
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    let body = match (text("text"), text("name")) {
        (Some(text), _) => Body::Text(text.to_owned()),
        (None, Some(name)) => Body::Name(proper_name(name)?),
        (None, None) => return None,
    };
    let id = text("id").filter(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES);
    Some(Content {
        id: id.map(str::to_owned),
        body,
    })
}

/// A name without what surrounds it, not too long; none where nothing is left.
pub(crate) fn proper_name(name: &str) -> Option<String> {
    let name: String = name.trim().chars().take(MAX_NAME_CHARS).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for content in [
            Content::text("0a", "Hello \"Bob\"\n\u{1b}[2J 日本"),
            Content::text("0a", ""),
            Content::name("0a", "holiday"),
        ] {
            assert_eq!(Content::decode(&content.encode()), content);
        }
    }

    #[test]
    fn what_is_no_such_object_is_text_where_it_can_be() {
        for text in [
            "Hello",
            "",
            "{",
            "42",
            "[]",
            "{}",
            "{\"text\": 1}",
            "{\"name\": \"  \"}",
        ] {
            let content = Content::decode(text.as_bytes());
            assert_eq!(content.body, Body::Text(text.to_owned()));
            assert_eq!(content.id, None);
        }
        assert_eq!(Content::decode(&[0xff, 0xfe]).body, Body::Unknown(2));
    }

    #[test]
    fn what_is_not_known_is_ignored_and_what_is_too_long_is_not_taken() {
        let content = Content::decode(br#"{"text": "a", "name": "b", "id": "", "colour": [1]}"#);
        assert_eq!(content.body, Body::Text("a".to_owned()));
        assert_eq!(content.id, None);
        let id = "x".repeat(65);
        let content = Content::decode(format!(r#"{{"text": "a", "id": "{id}"}}"#).as_bytes());
        assert_eq!(content.id, None);
        let name = format!(" {} ", "ü".repeat(200));
        let content = Content::decode(&Content::name("1", &name).encode());
        assert_eq!(content.body, Body::Name("ü".repeat(100)));
    }
}
