//! The rules of the profile's section 6: a message that breaks one of them, and nothing else, is
//! refused with the code that the profile names, and leaves everything as it was.

#![allow(clippy::unwrap_used)]

mod add_users;
mod cache;
mod clock;
mod create_group;
mod device;
mod home;
mod leaves;
mod made;
mod member;
mod operations;
mod parts;
mod peers;
mod proposals;
mod purity;
mod replay;
mod requests;
mod scene;
mod send_message;
mod site;
mod state;
mod update_client;
mod welcome_info;
