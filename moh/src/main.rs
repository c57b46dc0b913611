//! `moh`: MIMI over HTTPS as one command.

mod admin;
mod authority;
mod bench;
mod chat;
mod demo;
mod escape;
mod init;
mod invite;
mod provider;
mod rotate_keys;
mod serve;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// MIMI over HTTPS: federation of end-to-end encrypted (MLS) conversations between messaging
/// providers.
#[derive(Parser)]
#[command(name = "moh", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show two providers and their users at work, and check that everything arrives
    Demo(demo::Arguments),
    /// Measure what providers do when things go wrong
    Bench(bench::Arguments),
    /// Run a provider
    Serve(serve::Arguments),
    /// Talk with others, in a terminal
    Chat(chat::Arguments),
    /// Write the configuration and the keys of a new provider
    Init(init::Arguments),
    /// Make codes that let people become users of a provider
    Invite(invite::Arguments),
    /// Add a new key to a provider's, in whose place it signs from tomorrow on
    RotateKeys(rotate_keys::Arguments),
    /// See how a provider that runs gets on with others, and act on what waits for them
    Admin(admin::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let terminal = std::io::stderr().is_terminal();
    // A chat on a full screen has the terminal for itself; `2>FILE` takes what is logged.
    let is_screen = matches!(&arguments.command, Command::Chat(chat) if chat.takes_the_screen());
    if !(is_screen && terminal) {
        tracing_subscriber::fmt()
            .with_env_filter(filter(&arguments.command))
            .with_writer(std::io::stderr)
            .with_ansi(terminal)
            .with_target(false)
            .init();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("moh: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match arguments.command {
            Command::Demo(arguments) => Box::pin(demo::run(arguments)).await,
            Command::Bench(arguments) => Box::pin(bench::run(arguments)).await,
            Command::Serve(arguments) => Box::pin(serve::run(arguments)).await,
            Command::Chat(arguments) => Box::pin(chat::run(arguments)).await,
            Command::Init(arguments) => init::run(&arguments),
            Command::Invite(arguments) => invite::run(&arguments),
            Command::RotateKeys(arguments) => rotate_keys::run(&arguments),
            Command::Admin(arguments) => admin::run(arguments).await,
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("moh: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What is logged to stderr: warnings, or what `MOH_LOG` says.
fn filter(command: &Command) -> tracing_subscriber::EnvFilter {
    let default = match command {
        // That there is no connection is what it is about.
        Command::Bench(_) => "error,openmls=off,rustls_platform_verifier=off",
        // Why there is no connection is said where one was wanted.
        _ => "warn,openmls=off,rustls_platform_verifier=off",
    };
    tracing_subscriber::EnvFilter::try_from_env("MOH_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default))
}
