//! Builds the real programs once per process, with the cargo and the profile that built the caller.
//!
//! `CULVERT_PROGRAMS` names a folder of programs that are built already, of another version for example.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::error::HarnessError;

/// The folder of built programs.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

static BUILT: OnceCell<Programs> = OnceCell::const_new();

impl Programs {
    /// Builds all programs, or finds that they are fresh.
    ///
    /// # Errors
    /// [`HarnessError::Build`] with what cargo said.
    pub async fn built() -> Result<&'static Self, HarnessError> {
        BUILT.get_or_try_init(build).await
    }

    /// The path of one program.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The folder `target/<profile>` that this program runs from.
///
/// # Errors
/// [`HarnessError::Build`] where this program was not built by cargo.
pub fn profile_folder() -> Result<PathBuf, HarnessError> {
    let program = std::env::current_exe()?;
    let folder = program.parent().map(|parent| {
        if parent.ends_with("deps") {
            parent.parent().unwrap_or(parent)
        } else {
            parent
        }
    });
    folder
        .map(Path::to_owned)
        .ok_or_else(|| HarnessError::Build(format!("{} lies in no folder", program.display())))
}

/// The folder `target`.
///
/// # Errors
/// As [`profile_folder`].
pub fn target_folder() -> Result<PathBuf, HarnessError> {
    let profile = profile_folder()?;
    let target = profile.parent().map(Path::to_owned);
    target.ok_or_else(|| HarnessError::Build(format!("{} has no parent", profile.display())))
}

/// The root of the workspace.
pub fn workspace_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_owned)
}

async fn build() -> Result<Programs, HarnessError> {
    if let Some(folder) = std::env::var_os("CULVERT_PROGRAMS") {
        return Ok(Programs {
            folder: folder.into(),
        });
    }
    let folder = profile_folder()?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(workspace_folder())
        .args(["build", "--quiet", "--bins"])
        .args([
            "-p",
            "culvert-agent",
            "-p",
            "culvert-gateway",
            "-p",
            "culvert-tests",
        ])
        .env("CARGO_TARGET_DIR", target_folder()?)
        .stdin(Stdio::null());
    if folder.ends_with("release") {
        command.arg("--release");
    }
    let output = command.output().await?;
    if !output.status.success() {
        return Err(HarnessError::Build(
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ));
    }
    Ok(Programs { folder })
}
