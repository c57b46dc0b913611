//! Welcomes are split, so that each destination gets only the secrets of its own clients.

use moh_messages::{KeyPackageRef, List, Message, MlsBytes, Opaque};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::error::Refusal;

const PROTOCOL_VERSION_MLS10: u16 = 1;
const WIRE_FORMAT_WELCOME: u16 = 3;

/// RFC 9420 section 12.4.3.1, and the MLSMessage around it.
/// ```text
/// struct { KeyPackageRef new_member; HPKECiphertext encrypted_group_secrets; } EncryptedGroupSecrets;
/// struct { CipherSuite cipher_suite; EncryptedGroupSecrets secrets<V>; opaque encrypted_group_info<V>; } Welcome;
/// ```
#[derive(Clone, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct WelcomeMessage {
    protocol_version: u16,
    wire_format: u16,
    cipher_suite: u16,
    secrets: List<Secrets, 10_000>,
    /// It is sent to each destination. The tree is not in it.
    encrypted_group_info: Opaque<{ 256 << 10 }>,
}

#[derive(Clone, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct Secrets {
    new_member: KeyPackageRef,
    kem_output: Opaque<1024>,
    ciphertext: Opaque<{ 16 << 10 }>,
}

/// The Welcomes of one request, read.
pub(super) struct Welcomes(Vec<WelcomeMessage>);

impl Welcomes {
    /// Reads Welcomes into a group of a ciphersuite.
    pub(super) fn read(welcomes: &[MlsBytes], cipher_suite: u16) -> Result<Self, Refusal> {
        let read = |bytes: &MlsBytes| {
            WelcomeMessage::decode(bytes.as_slice())
                .ok()
                .filter(|w| {
                    w.protocol_version == PROTOCOL_VERSION_MLS10
                        && w.wire_format == WIRE_FORMAT_WELCOME
                        && w.cipher_suite == cipher_suite
                })
                .ok_or_else(|| {
                    Refusal::InvalidMessage(
                        "not an MLSMessage with a Welcome of this ciphersuite".to_owned(),
                    )
                })
        };
        welcomes
            .iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether they are for exactly these, each once.
    pub(super) fn are_for(&self, added: &[KeyPackageRef]) -> bool {
        let mut welcomed: Vec<_> = self
            .0
            .iter()
            .flat_map(|w| w.secrets.iter().map(|s| &s.new_member))
            .collect();
        let mut added: Vec<_> = added.iter().collect();
        welcomed.sort();
        added.sort();
        welcomed == added
    }

    /// One message for each Welcome with secrets for any of `references`, with those alone;
    /// beside it, whom it is for.
    pub(super) fn split(
        &self,
        references: &[KeyPackageRef],
    ) -> Vec<(MlsBytes, Vec<KeyPackageRef>)> {
        let mut parts = Vec::new();
        for welcome in &self.0 {
            let secrets: Vec<Secrets> = welcome
                .secrets
                .iter()
                .filter(|s| references.contains(&s.new_member))
                .cloned()
                .collect();
            if secrets.is_empty() {
                continue;
            }
            let whom = secrets.iter().map(|s| s.new_member.clone()).collect();
            let secrets = List::new(secrets).expect("not more than there were");
            let part = WelcomeMessage {
                secrets,
                ..welcome.clone()
            };
            parts.push((
                Opaque::new(part.encode()).expect("not longer than it was"),
                whom,
            ));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(byte: u8) -> KeyPackageRef {
        Opaque::new(vec![byte; 32]).unwrap()
    }

    fn welcome(members: &[u8]) -> MlsBytes {
        let secrets = members.iter().map(|&m| Secrets {
            new_member: reference(m),
            kem_output: Opaque::new(vec![m]).unwrap(),
            ciphertext: Opaque::new(vec![m, m]).unwrap(),
        });
        let message = WelcomeMessage {
            protocol_version: PROTOCOL_VERSION_MLS10,
            wire_format: WIRE_FORMAT_WELCOME,
            cipher_suite: 1,
            secrets: List::new(secrets.collect()).unwrap(),
            encrypted_group_info: Opaque::new(vec![9; 9]).unwrap(),
        };
        Opaque::new(message.encode()).unwrap()
    }

    #[test]
    fn each_destination_gets_its_own_secrets_alone() {
        let read = Welcomes::read(&[welcome(&[1, 2, 3]), welcome(&[4])], 1).unwrap();
        let parts = read.split(&[reference(3), reference(1)]);
        assert_eq!(
            parts,
            [(welcome(&[1, 3]), vec![reference(1), reference(3)])]
        );
        assert_eq!(read.split(&[reference(4)])[0].0, welcome(&[4]));
        assert_eq!(read.split(&[reference(5)]), []);
    }

    #[test]
    fn welcomes_are_for_the_added_each_once() {
        let all: Vec<_> = [2, 1].map(reference).into();
        let is = |members: &[u8]| {
            Welcomes::read(&[welcome(members)], 1)
                .unwrap()
                .are_for(&all)
        };
        assert!(is(&[1, 2]));
        assert!(!is(&[1]));
        assert!(!is(&[1, 2, 3]));
        assert!(!is(&[1, 2, 2]));
    }
}
