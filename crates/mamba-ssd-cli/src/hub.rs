//! Models named `hf:owner/name` or `hf:owner/name@revision`: downloaded from the Hugging Face Hub into its usual cache.
//! Nothing else in this program reaches for the network.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

const PREFIX: &str = "hf:";

/// The file that tells whether a cached model is there; GGUF files have none, and need the hub every time.
#[cfg(feature = "hub")]
const CONFIG: &str = "config.json";

/// A repository of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Repository {
    name: String,
    revision: String,
}

/// The files of a model on this machine, downloaded first if its name says so.
///
/// # Errors
/// When the name is malformed, the hub cannot be reached, or the repository holds no weights.
pub fn local(model: &Path) -> Result<PathBuf> {
    match model.to_str().and_then(|text| text.strip_prefix(PREFIX)) {
        None => Ok(model.to_path_buf()),
        Some(name) => download(&parse(name)?),
    }
}

fn parse(text: &str) -> Result<Repository> {
    let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
    let parts: Vec<&str> = name.split('/').collect();
    let whole =
        |part: &&str| !part.is_empty() && !part.starts_with('.') && !part.contains(char::is_whitespace);
    if parts.len() != 2 || !parts.iter().all(whole) || !whole(&revision) {
        bail!("found {PREFIX}{text}; expected {PREFIX}owner/name or {PREFIX}owner/name@revision");
    }
    Ok(Repository { name: name.into(), revision: revision.into() })
}

/// Files beside the weights that a checkpoint may need.
#[cfg(any(feature = "hub", test))]
const BESIDE: [&str; 7] = [
    "config.json",
    "params.json",
    "mamba_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "prompt.txt",
];

/// The files of a repository that make a model: those beside the weights, and one form of the weights.
#[cfg(any(feature = "hub", test))]
fn wanted(files: &[String]) -> Option<Vec<String>> {
    let ending =
        |ending: &str| files.iter().filter(|file| file.ends_with(ending)).cloned().collect::<Vec<_>>();
    let at_top =
        |files: Vec<String>| files.into_iter().filter(|file| !file.contains('/')).collect::<Vec<_>>();
    let mut safetensors = at_top([ending(".safetensors"), ending(".safetensors.index.json")].concat());
    if safetensors.iter().any(|file| file.starts_with("model")) {
        safetensors.retain(|file| file.starts_with("model")); // not the original's beside transformers' form
    }
    let torch = at_top([ending(".bin"), ending(".bin.index.json")].concat());
    let gguf = at_top(ending(".gguf"));
    let weights = [safetensors, torch, gguf].into_iter().find(|weights| !weights.is_empty())?;
    let beside = files.iter().filter(|file| BESIDE.contains(&file.as_str())).cloned();
    Some(beside.chain(weights).collect())
}

#[cfg(feature = "hub")]
fn download(repository: &Repository) -> Result<PathBuf> {
    use anyhow::Context;
    use hf_hub::api::sync::ApiBuilder;
    use hf_hub::{Cache, Repo, RepoType};

    let Repository { name, revision } = repository;
    let api = ApiBuilder::from_env().with_progress(true).build()?;
    let asked = Repo::with_revision(name.clone(), RepoType::Model, revision.clone());
    let (repo, cached) = (api.repo(asked.clone()), Cache::from_env().repo(asked));
    let unreachable = || {
        format!(
            "{PREFIX}{name}: cannot be downloaded; check the name, the network, and for a gated model HF_TOKEN"
        )
    };
    let info = match repo.info() {
        Ok(info) => info,
        Err(error) => {
            // What was whole once is whole still: the reference is written last.
            let config = cached.get(CONFIG).ok_or(error).with_context(unreachable)?;
            tracing::warn!("{PREFIX}{name}: the hub was not reached, taken from its cache");
            return config.parent().map(Path::to_path_buf).with_context(unreachable);
        }
    };
    let files: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
    let Some(wanted) = wanted(&files) else {
        bail!("{PREFIX}{name}: holds no safetensors, PyTorch or GGUF file");
    };
    let ggufs: Vec<&str> = wanted.iter().map(String::as_str).filter(|file| file.ends_with(".gguf")).collect();
    if ggufs.len() > 1 {
        bail!("{PREFIX}{name}: holds {}; download the one you want and name its file", ggufs.join(", "));
    }
    // All files of one commit: `main` may move between two of them.
    let repo = api.repo(Repo::with_revision(name.clone(), RepoType::Model, info.sha.clone()));
    let mut folder = None;
    for file in &wanted {
        let path = repo.get(file).with_context(unreachable)?;
        folder = path.parent().map(Path::to_path_buf);
    }
    cached.create_ref(&info.sha)?;
    folder.with_context(unreachable)
}

#[cfg(not(feature = "hub"))]
fn download(repository: &Repository) -> Result<PathBuf> {
    bail!(
        "{PREFIX}{}: this program was built without downloads; build it with `--features hub`",
        repository.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_an_owner_a_name_and_perhaps_a_revision() {
        let parsed = |name| parse(name).ok().map(|found| (found.name, found.revision));
        assert_eq!(parsed("a/b"), Some(("a/b".into(), "main".into())));
        assert_eq!(parsed("a/b@v2"), Some(("a/b".into(), "v2".into())));
        for wrong in ["", "a", "a/", "/b", "a/b/c", "../b", "a/..", "a/b@", "a /b"] {
            assert_eq!(parsed(wrong), None, "{wrong:?} was taken");
        }
        assert_eq!(local(Path::new("models/hf:x")).ok(), Some(PathBuf::from("models/hf:x")));
    }

    #[test]
    fn one_form_of_the_weights_is_wanted() {
        let files = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let all = files(&[
            "README.md",
            "config.json",
            "model.safetensors",
            "consolidated.safetensors",
            "original/x.safetensors",
            "pytorch_model.bin",
        ]);
        assert_eq!(wanted(&all), Some(files(&["config.json", "model.safetensors"])));
        let torch = files(&["mamba_config.json", "config.json", "pytorch_model.bin"]);
        assert_eq!(wanted(&torch), Some(torch.clone()));
        assert_eq!(wanted(&files(&["README.md", "tokenizer.json"])), None);
    }
}
