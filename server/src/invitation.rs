//! Invitations: codes that let somebody become a user where not everybody may.
//!
//! A code is made from the provider's keys alone, without its store, and carries a MAC: nothing
//! need be kept of it until it is used. Then its first part is, until it would have expired.
//!
//! It is 48 hexadecimal digits: when it expires (4 bytes, in minutes since the Unix epoch), 8
//! random bytes, and 12 bytes of HMAC-SHA-256 over those two.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

use crate::change::InvitationId;
use crate::clock::{MINUTE_MS, Random};

/// What the key is derived with; the names of groups, which are made with the same secret, have
/// MACs over 16 bytes.
const LABEL: &[u8] = b"MoH invitation key";
const EXPIRY_BYTES: usize = 4;
const ID_BYTES: usize = 12;
const MAC_BYTES: usize = 12;

/// A code that was issued here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Invitation {
    /// Which one it is.
    pub(crate) id: InvitationId,
    /// It is not taken after this, in milliseconds since the Unix epoch.
    pub(crate) not_after: u64,
}

/// The key for invitations, of the secret for the names of groups.
pub(crate) fn key(secret: &[u8]) -> hmac::Key {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&secret, LABEL).as_ref())
}

/// A new code, good until the minute that `not_after` is in is over.
pub(crate) fn issue(key: &hmac::Key, random: &dyn Random, not_after: u64) -> String {
    let minutes = u32::try_from(not_after.div_ceil(MINUTE_MS)).unwrap_or(u32::MAX);
    let mut code = minutes.to_be_bytes().to_vec();
    code.extend(random.bytes::<{ ID_BYTES - EXPIRY_BYTES }>());
    let mac = hmac::sign(key, &code);
    code.extend_from_slice(&mac.as_ref()[..MAC_BYTES]);
    hex::encode(code)
}

/// What a code says; none for one that was not issued with this key.
pub(crate) fn read(key: &hmac::Key, code: &[u8]) -> Option<Invitation> {
    let code = hex::decode(code.trim_ascii()).ok()?;
    let (id, mac) = code.split_at_checked(ID_BYTES)?;
    let expected = hmac::sign(key, id);
    verify_slices_are_equal(&expected.as_ref()[..MAC_BYTES], mac).ok()?;
    let id: InvitationId = id.try_into().ok()?;
    let (minutes, _) = id.split_first_chunk::<EXPIRY_BYTES>()?;
    Some(Invitation {
        id,
        not_after: u64::from(u32::from_be_bytes(*minutes)) * MINUTE_MS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Environment;

    #[test]
    fn a_code_is_short_text_and_says_what_it_was_made_with() {
        let random = Environment::system().random;
        let key = key(b"secret");
        for not_after in [MINUTE_MS, 1_800_000_000_001, 1_800_000_000_000] {
            let code = issue(&key, &*random, not_after);
            assert!(code.len() <= 64 && code.is_ascii());
            let read_back = read(&key, code.as_bytes()).unwrap();
            assert_eq!(
                read_back.not_after,
                not_after.div_ceil(MINUTE_MS) * MINUTE_MS
            );
            // The same one, however it is written.
            let typed = format!(" {}\n", code.to_uppercase());
            assert_eq!(read(&key, typed.as_bytes()), Some(read_back));
            assert_ne!(issue(&key, &*random, not_after), code);
        }
    }

    #[test]
    fn what_was_not_issued_here_says_nothing() {
        let random = Environment::system().random;
        let ours = key(b"secret");
        let code = issue(&ours, &*random, 1_800_000_000_000);
        assert_eq!(read(&key(b"another"), code.as_bytes()), None);
        for position in 0..code.len() {
            let mut changed = code.clone().into_bytes();
            changed[position] = if changed[position] == b'0' {
                b'1'
            } else {
                b'0'
            };
            assert_eq!(read(&ours, &changed), None, "{position}");
        }
        for text in [
            "",
            "00",
            &code[..46],
            &format!("{code}00"),
            "not hexadecimal",
        ] {
            assert_eq!(read(&ours, text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_names_of_groups_are_no_invitations() {
        let random = Environment::system().random;
        let secret = crate::SecretKeys::generate(&*random);
        let keys = crate::Keys::new("a.example".parse().unwrap(), &secret).unwrap();
        let code = hex::decode(keys.invite(&*random, 1)).unwrap();
        let group_id = keys.issue_group_id(&*random);
        assert!(!keys.issued(&moh_messages::GroupId::new(code).unwrap()));
        assert_eq!(
            keys.invitation(hex::encode(group_id.as_slice()).as_bytes()),
            None
        );
        assert!(
            keys.invitation(keys.invite(&*random, 1).as_bytes())
                .is_some()
        );
    }
}
