// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What publishing needs: complete packages, licences, compatible changes, and a
//! dry run. `docs/publishing.md` is the checklist for people.

mod dependencies;
mod dry_run;
mod expression;
pub mod packages;
mod ready;
mod semver;

use clap::Subcommand;

use packages::Packages;

/// The checks of publishing.
#[derive(Debug, Subcommand)]
pub enum PublishCommand {
    /// Check manifests, licence files, changelogs and READMEs, and list what must
    /// be filled in before the first release.
    Check {
        /// Fail if anything is left to fill in.
        #[arg(long)]
        release: bool,
    },
    /// Check licences and sources of all dependencies, also with cargo-deny if it
    /// is installed.
    Dependencies,
    /// Compare the public interfaces with the last release's. Needs
    /// cargo-semver-checks.
    Semver,
    /// Package and build the libraries in the order of publishing, from an empty
    /// registry folder, and upload nothing.
    DryRun,
}

/// Runs one of them.
pub fn run(command: &PublishCommand) -> Result<(), String> {
    let packages = Packages::of_workspace()?;
    match command {
        PublishCommand::Check { release } => {
            let findings = ready::findings(&packages.in_order()?);
            ready::report(&findings, *release)
        }
        PublishCommand::Dependencies => dependencies::check(&Packages::with_dependencies()?),
        PublishCommand::Semver => semver::check(&packages.in_order()?),
        PublishCommand::DryRun => dry_run::run(&packages),
    }
}
