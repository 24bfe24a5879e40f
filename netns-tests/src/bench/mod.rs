//! `pias-lab bench`: the TUN engine against what else could stand in its place.
pub(crate) mod limits;
pub mod load;
#[derive(Debug, clap::Subcommand)]
pub enum Task { #[command(subcommand, hide=true)] Load(load::Load) }
pub fn run(t:&Task)->anyhow::Result<()>{ match t { Task::Load(l)=>Ok(load::run(l)?) } }
