//! Text in, data out; lossless where it is written back; no input or output of its own and nothing of the rest of the crate.

pub mod broker_log;
pub mod cidr;
pub mod env_conf;
pub mod erlang;
pub mod hosts;
pub mod iptables_save;
pub mod mend;
pub mod netlink;
pub mod passwords;
pub mod rabbitmq_conf;
pub mod schema;
pub mod shell;
pub mod unit_file;
pub mod x509;
