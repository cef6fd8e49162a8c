//! Commands about images and registries.

use clap::{Args, Subcommand};

use super::{Command, InspectArgs, ListArgs, PruneAllArgs, Pruning};

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List images
    #[command(visible_alias = "list")]
    Ls(ImagesArgs),
    /// Import a tar archive as an image with one layer
    Import(ImportArgs),
    /// Load images from an archive
    Load(LoadArgs),
    /// Download an image from a registry
    Pull(PullArgs),
    /// Upload an image to a registry
    Push(PushArgs),
    /// Save images to an archive
    Save(SaveArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Remove images
    Rm(RmiArgs),
    /// Show the history of an image
    History(HistoryArgs),
    /// Display detailed information on images
    Inspect(InspectArgs),
    /// Remove unused images
    Prune(ImagePruneArgs),
}

impl From<ImageCommand> for Command {
    fn from(command: ImageCommand) -> Self {
        use ImageCommand as C;
        match command {
            C::Ls(a) => Self::Images(a),
            C::Import(a) => Self::Import(a),
            C::Load(a) => Self::Load(a),
            C::Pull(a) => Self::Pull(a),
            C::Push(a) => Self::Push(a),
            C::Save(a) => Self::Save(a),
            C::Tag(a) => Self::Tag(a),
            C::Rm(a) => Self::Rmi(a),
            C::History(a) => Self::History(a),
            C::Inspect(a) => Self::Inspect(InspectArgs { kind: Some("image".into()), ..a }),
            C::Prune(a) => Self::Prune(Pruning::Images(a)),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    #[command(flatten)]
    pub(crate) list: ListArgs,
    /// Show also intermediate ones
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Show digests
    #[arg(long)]
    pub(crate) digests: bool,
    /// Show the platforms of each image as a tree
    #[arg(long)]
    pub(crate) tree: bool,
    /// Only images of this name
    pub(crate) reference: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Dockerfile instruction to apply
    #[arg(short, long)]
    pub(crate) change: Vec<String>,
    /// Commit message
    #[arg(short, long)]
    pub(crate) message: Option<String>,
    /// Platform (os/architecture)
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// File, or - for standard input
    pub(crate) file: String,
    /// Name of the new image
    pub(crate) reference: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Read from this file instead of standard input
    #[arg(short, long)]
    pub(crate) input: Option<std::path::PathBuf>,
    /// Load only images of these platforms: os/architecture[/variant]
    #[arg(long, value_delimiter = ',')]
    pub(crate) platform: Vec<String>,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Download all tags of the repository
    #[arg(short, long)]
    pub(crate) all_tags: bool,
    /// Download the images of all platforms
    #[arg(long, conflicts_with = "platform")]
    pub(crate) all_platforms: bool,
    /// Platform of the image: os/architecture[/variant]
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Print no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Image
    pub(crate) image: String,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Upload all tags of the repository
    #[arg(short, long)]
    pub(crate) all_tags: bool,
    /// Upload only the image of this platform: os/architecture[/variant]
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Print no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Image
    pub(crate) image: String,
}

#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// User name
    #[arg(short, long)]
    pub(crate) username: Option<String>,
    /// Password
    #[arg(short, long)]
    pub(crate) password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Registry; the Docker Hub if not given
    pub(crate) server: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// Registry; the Docker Hub if not given
    pub(crate) server: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    /// Only what fits: is-official=true, stars=3
    #[arg(short, long)]
    pub(crate) filter: Vec<String>,
    /// Template or "json" or "table"
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// At most this many
    #[arg(long)]
    pub(crate) limit: Option<u32>,
    /// Do not shorten descriptions
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// What to look for, after a registry's name and a slash if it is not the Docker Hub
    pub(crate) term: String,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// File to write to instead of standard output
    #[arg(short, long)]
    pub(crate) output: Option<std::path::PathBuf>,
    /// Save only images of these platforms: os/architecture[/variant]
    #[arg(long, value_delimiter = ',')]
    pub(crate) platform: Vec<String>,
    /// Images
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// Image
    pub(crate) source: String,
    /// New name
    pub(crate) target: String,
}

#[derive(Debug, Args)]
pub(crate) struct RmiArgs {
    /// Remove even where it is used
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Keep untagged parents
    #[arg(long)]
    pub(crate) no_prune: bool,
    /// Remove only images of these platforms: os/architecture[/variant]
    #[arg(long, value_delimiter = ',')]
    pub(crate) platform: Vec<String>,
    /// Images
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Format with a Go template, `json` or `table`
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Do not shorten
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Platform of the image: os/architecture[/variant]
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Sizes and times for people
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) human: bool,
    /// Image
    pub(crate) image: String,
}

#[derive(Debug, Args)]
pub(crate) struct ImagePruneArgs {
    #[command(flatten)]
    pub(crate) which: PruneAllArgs,
    /// Only show what would be removed
    #[arg(long)]
    pub(crate) plan: bool,
    /// Go by the policies of the daemon's configuration (`image-gc`)
    #[arg(long, conflicts_with_all = ["all", "filter"])]
    pub(crate) policy: bool,
}
