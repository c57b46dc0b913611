//! The rules of the profile's section 6: a message that breaks one of them, and nothing else, is
//! refused with the code that the profile names, and leaves everything as it was. And what a
//! provider does for its own users.

#![allow(clippy::unwrap_used)]

mod accounts;
mod add_clients;
mod add_users;
mod cache;
mod client_deleted;
mod clock;
mod connection_groups;
mod create_group;
mod delete_group;
mod device;
mod external_commit_info;
mod external_join;
mod home;
mod large;
mod leaves;
mod made;
mod member;
mod operations;
mod order;
mod parts;
mod peers;
mod pending_proposals;
mod phone;
mod pools;
mod proposals;
mod provider_removals;
mod purity;
mod re_initialize_group;
mod recipients;
mod remove_clients;
mod remove_users;
mod repeats;
mod replay;
mod request_group_id;
mod requests;
mod roles;
mod scene;
mod self_remove_client;
mod send_message;
mod set_roles;
mod site;
mod state;
mod table;
mod update_client;
mod uploads;
mod welcome_info;
