//! Answers of a provider, as people read them.

use moh_messages::ProviderName;
use moh_server::admin::{Peer, PeerState, Peers, Policy, Reloaded, SetAside, SetAsidePage};

use super::table::Column::{Left, Right};
use super::table::Table;
use super::words::{ago, count, number, size, span};
use crate::escape;

/// Where there is nothing to say.
const NONE: &str = "-";
/// So much of a group's id is shown: enough to tell groups apart, and to find the rest by `--json`.
const GROUP_DIGITS: usize = 8;

/// The other providers, those in trouble first.
pub(super) fn peers(answer: &Peers) -> String {
    if answer.peers.is_empty() {
        return "nothing waits for another provider, and nothing is set aside\n".to_owned();
    }
    let columns = [
        Left("PROVIDER"),
        Left("STATE"),
        Right("WAITING"),
        Right("SIZE"),
        Right("BEHIND"),
        Right("SET ASIDE"),
        Right("LAST SEEN"),
    ];
    let mut table = Table::new(0, columns);
    let mut sorted: Vec<_> = answer.peers.iter().collect();
    sorted.sort_by_key(|peer| (urgency(&peer.state), &peer.provider));
    for peer in sorted {
        let (state, below) = state(&peer.state, answer.now_ms);
        let waits = peer.waiting > 0;
        let since = |at: Option<u64>| at.map(|at| answer.now_ms.saturating_sub(at));
        let row = [
            peer.provider.clone(),
            state.to_owned(),
            if waits { count(peer.waiting) } else { none() },
            if waits {
                size(peer.waiting_bytes)
            } else {
                none()
            },
            since(peer.oldest_at_ms).map_or_else(none, span),
            if peer.set_aside > 0 {
                count(peer.set_aside)
            } else {
                none()
            },
            peer.last_alive_at_ms
                .map_or_else(none, |at| ago(at, answer.now_ms)),
        ];
        table.row(row, below);
    }
    format!("{}\n{}", table.draw(), summary(&answer.peers))
}

fn none() -> String {
    NONE.to_owned()
}

fn urgency(state: &PeerState) -> u8 {
    match state {
        PeerState::Failing { .. } => 0,
        PeerState::Paused => 1,
        PeerState::Sending => 2,
        PeerState::Idle => 3,
    }
}

fn state(state: &PeerState, now_ms: u64) -> (&'static str, Vec<String>) {
    match state {
        PeerState::Idle => ("idle", Vec::new()),
        PeerState::Sending => ("sending", Vec::new()),
        PeerState::Paused => ("paused", Vec::new()),
        PeerState::Failing {
            since_ms,
            next_try_at_ms,
            failures,
            reason,
        } => {
            let next = match next_try_at_ms.saturating_sub(now_ms) {
                0 => "now".to_owned(),
                ms => format!("in {}", span(ms)),
            };
            let failures = number((*failures).into(), "failure", "failures");
            let for_so_long = span(now_ms.saturating_sub(*since_ms));
            let below = format!("{failures} in {for_so_long}, next try {next}: {reason}");
            ("failing", vec![below])
        }
    }
}

fn summary(peers: &[Peer]) -> String {
    let is_failing = |peer: &&Peer| matches!(peer.state, PeerState::Failing { .. });
    let failing = peers.iter().filter(is_failing).count() as u64;
    let waiting = peers.iter().map(|peer| peer.waiting).sum();
    let bytes = peers.iter().map(|peer| peer.waiting_bytes).sum();
    let set_aside: u64 = peers.iter().map(|peer| peer.set_aside).sum();
    let all = number(peers.len() as u64, "provider", "providers");
    let mut text = match failing {
        0 => format!("{all}, none failing"),
        _ => format!("{all}, {} failing", count(failing)),
    };
    match waiting {
        0 => text.push_str("; nothing waits"),
        _ => {
            let what = number(waiting, "delivery waits", "deliveries wait");
            text.push_str(&format!("; {what} ({})", size(bytes)));
        }
    }
    text.push('\n');
    if set_aside > 0 {
        let needs = if set_aside == 1 { "needs" } else { "need" };
        let set_aside = count(set_aside);
        text.push_str(&format!(
            "{set_aside} set aside {needs} you: moh admin outbox\n"
        ));
    }
    text
}

/// Deliveries that are set aside.
pub(super) fn set_aside(page: &SetAsidePage) -> String {
    if page.set_aside.is_empty() {
        return "nothing is set aside\n".to_owned();
    }
    let columns = [
        Right("ID"),
        Left("PROVIDER"),
        Left("WHAT"),
        Left("GROUP"),
        Right("SIZE"),
        Right("MADE"),
        Right("SET ASIDE"),
        Left("RETRY"),
    ];
    let mut table = Table::new(1, columns);
    for delivery in &page.set_aside {
        let ending = delivery.ending.replace('_', " ");
        let mut below = match &delivery.reason {
            reason if *reason == ending => vec![ending],
            reason => vec![format!("{ending}: {reason}")],
        };
        if let Some(client) = &delivery.client {
            below.insert(0, format!("{client} is gone"));
        }
        table.row(cells(delivery, page.now_ms), below);
    }
    let more = page.next_after.map_or_else(String::new, |after| {
        format!("\nthere are more: moh admin outbox --after {after}\n")
    });
    format!("{}{more}", table.draw())
}

fn cells(delivery: &SetAside, now_ms: u64) -> [String; 8] {
    let group = delivery.group.as_deref().unwrap_or(NONE);
    let group = match group.char_indices().nth(GROUP_DIGITS) {
        Some((at, _)) => format!("{}…", &group[..at]),
        None => group.to_owned(),
    };
    [
        delivery.id.to_string(),
        delivery.provider.clone(),
        delivery.kind.replace('_', " "),
        group,
        size(delivery.bytes),
        ago(delivery.created_at_ms, now_ms),
        ago(delivery.set_aside_at_ms, now_ms),
        if delivery.can_be_retried { "yes" } else { "no" }.to_owned(),
    ]
}

/// What was done with deliveries that were set aside.
pub(super) fn counted(many: u64, peer: Option<&ProviderName>, done: &str) -> String {
    match (many, peer) {
        (0, Some(peer)) => format!("nothing is set aside for {peer}\n"),
        (0, None) => String::new(),
        (many, _) => format!("{} {done}\n", number(many, "delivery", "deliveries")),
    }
}

/// Whether a provider is tried.
pub(super) fn woken(peer: &ProviderName, woken: bool) -> String {
    if woken {
        format!("{peer} is tried now\n")
    } else {
        format!("nothing waits for {peer}\n")
    }
}

/// Who may talk to the provider.
pub(super) fn policy(policy: &Policy) -> String {
    let said = match &*policy.policy {
        "open" => "open: all providers may, but those that are blocked",
        "allow-listed" => "allow-listed: nobody may but these, unless blocked",
        other => other,
    };
    let mut text = format!("policy  {}\n", escape::line(said));
    for (name, entries) in [("allow", &policy.allow), ("block", &policy.block)] {
        let first = entries.first().map_or(NONE, |entry| entry);
        text.push_str(&format!("{name}   {}\n", escape::line(first)));
        for entry in entries.iter().skip(1) {
            text.push_str(&format!("        {}\n", escape::line(entry)));
        }
    }
    text
}

/// What came of reading the configuration again.
pub(super) fn reloaded(answer: &Reloaded) -> String {
    let mut text = match answer.changed {
        true => "the policy has changed:\n",
        false => "the policy is as it was:\n",
    }
    .to_owned();
    text.push_str(&policy(&answer.policy));
    if !answer.need_restart.is_empty() {
        let names = escape::line(&answer.need_restart.join(", "));
        text.push_str(&format!(
            "\nchanged, too, and in need of a restart: {names}\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::table::MAX_WIDTH;
    use super::*;
    use unicode_width::UnicodeWidthStr as _;

    const MINUTE_MS: u64 = 60_000;
    const HOUR_MS: u64 = 60 * MINUTE_MS;
    const NOW_MS: u64 = 1_000 * HOUR_MS;

    fn peer(provider: &str, state: PeerState) -> Peer {
        Peer {
            provider: provider.to_owned(),
            state,
            waiting: 0,
            waiting_bytes: 0,
            oldest_at_ms: None,
            set_aside: 0,
            set_aside_bytes: 0,
            forgotten: 0,
            last_alive_at_ms: None,
        }
    }

    fn shown(all: Vec<Peer>) -> String {
        peers(&Peers {
            now_ms: NOW_MS,
            provider: "a.example".to_owned(),
            peers: all,
            next_after: None,
        })
    }

    #[test]
    fn providers_in_trouble_come_first_and_say_why() {
        let failing = Peer {
            waiting: 1_204,
            waiting_bytes: 3_141_592,
            oldest_at_ms: Some(NOW_MS - 2 * HOUR_MS - 5 * MINUTE_MS),
            set_aside: 3,
            last_alive_at_ms: Some(NOW_MS - 2 * HOUR_MS - 6 * MINUTE_MS),
            ..peer(
                "late.example",
                PeerState::Failing {
                    since_ms: NOW_MS - 2 * HOUR_MS,
                    next_try_at_ms: NOW_MS + 4 * MINUTE_MS,
                    failures: 17,
                    reason: "cannot be connected to: Connection refused (os error 111)".to_owned(),
                },
            )
        };
        let paused = Peer {
            waiting: 1,
            waiting_bytes: 999,
            oldest_at_ms: Some(NOW_MS - HOUR_MS),
            ..peer("paused.example", PeerState::Paused)
        };
        let idle = Peer {
            last_alive_at_ms: Some(NOW_MS - 3_000),
            ..peer("b.example", PeerState::Idle)
        };
        let expected = "\
PROVIDER        STATE    WAITING    SIZE     BEHIND  SET ASIDE        LAST SEEN
late.example    failing    1,204  3.1 MB  2 h 5 min          3  2 h 6 min ago
    17 failures in 2 h, next try in 4 min: cannot be connected to: Connection refused (os error 111)
paused.example  paused         1   999 B        1 h          -              -
b.example       idle           -       -          -          -        3 s ago

3 providers, 1 failing; 1,205 deliveries wait (3.1 MB)
3 set aside need you: moh admin outbox
";
        let expected = expected.replace("SET ASIDE        LAST", "SET ASIDE      LAST");
        assert_eq!(shown(vec![idle, paused, failing]), expected);
        assert_eq!(
            shown(Vec::new()),
            "nothing waits for another provider, and nothing is set aside\n"
        );
    }

    #[test]
    fn the_widest_that_there_can_be_fits_on_the_screen() {
        let label = "x".repeat(60);
        let widest = Peer {
            waiting: 999_999_999,
            waiting_bytes: 999_999_999_999,
            oldest_at_ms: Some(NOW_MS - 6 * 24 * HOUR_MS - 23 * HOUR_MS),
            set_aside: 999_999_999,
            last_alive_at_ms: Some(0),
            ..peer(
                &[&*label, &label, &label, &label].join("."),
                PeerState::Failing {
                    since_ms: NOW_MS - 2 * HOUR_MS,
                    next_try_at_ms: 0,
                    failures: u32::MAX,
                    reason: "said \x1b[2J so ".repeat(100),
                },
            )
        };
        let page = SetAsidePage {
            now_ms: NOW_MS,
            set_aside: vec![SetAside {
                id: 999_999_999_999,
                provider: widest.provider.clone(),
                kind: "connection_request".to_owned(),
                group: Some("0123456789abcdef".repeat(16)),
                client: None,
                ending: "request_refused".to_owned(),
                reason: "r".repeat(300),
                created_at_ms: 0,
                set_aside_at_ms: NOW_MS - 29 * 24 * HOUR_MS - HOUR_MS,
                bytes: 4 << 20,
                can_be_retried: true,
            }],
            next_after: Some(999_999_999_999),
        };
        for text in [shown(vec![widest]), set_aside(&page)] {
            for line in text.lines() {
                // The name of a provider can be longer than that alone.
                let is_name = line.contains(&label);
                assert!(is_name || line.width() <= MAX_WIDTH, "{line}");
            }
            assert!(!text.contains('\x1b'), "{text}");
        }
    }

    #[test]
    fn what_is_set_aside_says_what_it_is_and_whether_it_can_be_retried() {
        let refused = SetAside {
            id: 17,
            provider: "b.example".to_owned(),
            kind: "message".to_owned(),
            group: Some("3fa9c2d15b7e0c44aa".to_owned()),
            client: None,
            ending: "refused".to_owned(),
            reason: "limit_exceeded: too large".to_owned(),
            created_at_ms: NOW_MS - 49 * HOUR_MS,
            set_aside_at_ms: NOW_MS - 3 * HOUR_MS,
            bytes: 1_234,
            can_be_retried: true,
        };
        let expired = SetAside {
            id: 18,
            provider: "gone.example".to_owned(),
            kind: "client_deleted".to_owned(),
            group: None,
            client: Some("mimi://a.example/d/alice/phone".to_owned()),
            ending: "expired".to_owned(),
            reason: "expired".to_owned(),
            can_be_retried: false,
            bytes: 0,
            ..refused
        };
        let mut page = SetAsidePage {
            now_ms: NOW_MS,
            set_aside: vec![refused, expired],
            next_after: Some(18),
        };
        let expected = "\
ID  PROVIDER      WHAT            GROUP        SIZE         MADE  SET ASIDE  RETRY
17  b.example     message         3fa9c2d1…  1.2 kB  2 d 1 h ago    3 h ago  yes
    refused: limit_exceeded: too large
18  gone.example  client deleted  -             0 B  2 d 1 h ago    3 h ago  no
    mimi://a.example/d/alice/phone is gone
    expired

there are more: moh admin outbox --after 18
";
        assert_eq!(set_aside(&page), expected);
        page.set_aside.clear();
        assert_eq!(set_aside(&page), "nothing is set aside\n");
    }

    #[test]
    fn a_policy_and_what_changed() {
        let policy = Policy {
            policy: "open".to_owned(),
            allow: Vec::new(),
            block: vec!["spam.example".to_owned(), "*.bad.example".to_owned()],
        };
        let expected = "\
policy  open: all providers may, but those that are blocked
allow   -
block   spam.example
        *.bad.example
";
        assert_eq!(super::policy(&policy), expected);
        let answer = Reloaded {
            changed: true,
            policy,
            need_restart: vec!["listen".to_owned(), "limits".to_owned()],
        };
        let text = reloaded(&answer);
        assert!(
            text.starts_with("the policy has changed:\npolicy  open"),
            "{text}"
        );
        assert!(
            text.ends_with("in need of a restart: listen, limits\n"),
            "{text}"
        );
    }
}
