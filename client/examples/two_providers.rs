//! Two users of two providers talk with each other.
//!
//! Start two providers that share a certificate authority, each in a terminal of its own:
//!
//! ```text
//! moh serve --dev --name a.example --listen 127.0.0.1:8441 --data dev/a \
//!     --authority dev --peer b.example=127.0.0.1:8442
//! moh serve --dev --name b.example --listen 127.0.0.1:8442 --data dev/b \
//!     --authority dev --peer a.example=127.0.0.1:8441
//! ```
//!
//! and then this example, with where they are and what it is to trust:
//!
//! ```text
//! cargo run -p moh-client --example two_providers -- --ca dev/ca.pem \
//!     --a a.example=127.0.0.1:8441 --b b.example=127.0.0.1:8442
//! ```
//!
//! Bob asks for events by HTTPS, Alice gets them over a WebSocket.
//!
//! Each run makes new users, whose state is in a temporary directory unless `--state` names one.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use moh_client::{Client, ConnectOptions, Event, GroupId, ProviderName, UserId};

/// Two users of two providers talk with each other.
#[derive(Parser)]
struct Arguments {
    /// Alice's provider: its name, and where it is, as NAME=IP:PORT.
    #[arg(long, value_parser = at)]
    a: (ProviderName, SocketAddr),
    /// Bob's provider: its name, and where it is, as NAME=IP:PORT.
    #[arg(long, value_parser = at)]
    b: (ProviderName, SocketAddr),
    /// Certificates to trust besides the system's, as a PEM file.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The directory for the state of the two clients.
    #[arg(long)]
    state: Option<PathBuf>,
}

fn at(text: &str) -> Result<(ProviderName, SocketAddr), String> {
    let (name, addr) = text.split_once('=').ok_or("not NAME=IP:PORT")?;
    Ok((
        name.parse().map_err(|error| format!("{error}"))?,
        addr.parse().map_err(|error| format!("{addr}: {error}"))?,
    ))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let temporary = tempfile::tempdir()?;
    let dir = arguments
        .state
        .unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&dir)?;
    // So that every run has users of its own.
    let run = std::process::id();

    let options = |(name, addr): &(ProviderName, SocketAddr), ca: &Option<PathBuf>| {
        let mut options = ConnectOptions::new(name.clone()).resolve(name.as_str(), *addr);
        if let Some(path) = ca {
            options = options.root_certificate_pem(std::fs::read(path)?);
        }
        Ok::<_, std::io::Error>(options)
    };
    let alice_id = UserId::new(&arguments.a.0, &format!("alice-{run}"))?;
    let bob_id = UserId::new(&arguments.b.0, &format!("bob-{run}"))?;

    let options_a = options(&arguments.a, &arguments.ca)?;
    let alice = Client::register(options_a, dir.join(alice_id.user()), &alice_id, "phone").await?;
    println!("registered {}", alice.client_id());
    let options_b = options(&arguments.b, &arguments.ca)?;
    let bob = Client::register(options_b, dir.join(bob_id.user()), &bob_id, "phone").await?;
    println!("registered {}", bob.client_id());

    for client in [&alice, &bob] {
        client.refill_key_packages(30).await?;
    }
    let chat = alice.connect(&bob_id).await?;
    println!("{alice_id} has asked {bob_id} to be connected");
    wait_for(&bob, |event| {
        matches!(event, Event::ConnectionRequested { .. })
    })
    .await?;
    bob.accept(&alice_id).await?;
    wait_for(&alice, |event| matches!(event, Event::Connected { .. })).await?;
    show(&alice, &chat).await?;

    let group = alice.create_group().await?;
    println!("{alice_id} has created a group at {}", arguments.a.0);
    let added = alice.add_user(&group, &bob_id).await?;
    println!(
        "{alice_id} has added {:?}; epoch {}",
        added.clients, added.accepted.epoch
    );
    wait_for(&bob, |event| matches!(event, Event::Joined { .. })).await?;

    alice.send(&group, "Hello, Bob").await?;
    wait_for(&bob, is_message).await?;
    let mut events = alice.events();
    bob.send(&group, "Hello, Alice").await?;
    bob.update(&group).await?;
    for _ in 0..2 {
        print(&alice, &events.next().await?);
    }
    show(&alice, &group).await?;
    show(&bob, &group).await?;
    Ok(())
}

fn is_message(event: &Event) -> bool {
    matches!(event, Event::Message { .. })
}

/// Prints events until one is what is waited for.
async fn wait_for(client: &Client, wanted: impl Fn(&Event) -> bool) -> Result<(), Box<dyn Error>> {
    for _ in 0..6 {
        for event in client.receive(Duration::from_secs(10)).await? {
            print(client, &event);
            if wanted(&event) {
                return Ok(());
            }
        }
    }
    Err("nothing came within a minute".into())
}

fn print(client: &Client, event: &Event) {
    match event {
        Event::Message {
            sender, content, ..
        } => {
            let text = String::from_utf8_lossy(content);
            println!("{} reads from {sender}: {text}", client.user_id());
        }
        other => println!("{}: {other:?}", client.user_id()),
    }
}

async fn show(client: &Client, group: &GroupId) -> Result<(), moh_client::Error> {
    let members = client.members(group).await?;
    println!(
        "{} is in epoch {} with {members:?}",
        client.user_id(),
        client.epoch(group).await?
    );
    Ok(())
}
