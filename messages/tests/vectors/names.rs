//! Names, and lengths of each form: `names.json`, `lengths.json`.

use moh_messages::{
    ClientId, MlsBytes, TreeBytes, UserId,
    client_api::{Boolean, UploadKeyPackages},
};

use super::common::*;

pub(crate) fn cases() -> Vec<Case> {
    let user = |text: &str| text.parse::<UserId>().unwrap();
    let longest = format!("mimi://{}/u/{}", longest_domain(), "u".repeat(64));
    let client = format!("mimi://a.example/d/{}/{}", "u".repeat(64), "d".repeat(64));
    let mut cases = vec![
        case("provider_name", "ProviderName", a()),
        case(
            "provider_name_a_label",
            "ProviderName",
            provider("xn--bcher-kva.example"),
        ),
        case(
            "provider_name_longest",
            "ProviderName",
            provider(&longest_domain()),
        ),
        case("user_id", "UserID", alice()),
        case(
            "user_id_all_characters",
            "UserID",
            user("mimi://a.example/u/0a.b_c~d-e"),
        ),
        case("user_id_longest", "UserID", user(&longest)),
        case("client_id", "ClientID", phone()),
        case(
            "client_id_long",
            "ClientID",
            client.parse::<ClientId>().unwrap(),
        ),
        case(
            "tree_bytes",
            "TreeBytes",
            opaque::<{ TreeBytes::MAX_BYTES }, 0>([0x77; 100]),
        ),
        case(
            "list_of_16384_bytes",
            "UploadKeyPackages",
            UploadKeyPackages {
                replace: Boolean::False,
                key_packages: list(vec![opaque([0x6b; 4094]); 4]),
            },
        ),
    ];
    for length in [0, 1, 63, 64, 16_383, 16_384] {
        let bytes: MlsBytes = opaque(vec![0x5a; length]);
        cases.push(case(format!("mls_bytes_{length}"), "MLSBytes", bytes));
    }
    cases
}
