//! `donjon image`.

use crate::cli::{Format, ImageCommand, exit};
use crate::failure::Failure;
use anyhow::anyhow;
use donjon_host::cache::Cache;
use donjon_host::domains::Domains;
use donjon_host::images::{container, debian, download, import};
use donjon_host::progress::Console;
use donjon_host::store::{Store, StoreError, Stored, now};
use donjon_oci::Pull;
use std::path::Path;

/// Does what the command says.
pub fn image(command: &ImageCommand) -> Result<u8, Failure> {
    let store = Store::of_user()?;
    match command {
        ImageCommand::Build { name } => {
            let Some(suite) = debian::suite(name) else {
                let error = anyhow!("{name} cannot be built; Debian can, as debian:SUITE");
                return Err(Failure::with_hint(
                    error,
                    "for Debian 12: donjon image build debian:bookworm",
                ));
            };
            let stored = debian::build(
                &store,
                &Cache::of_user()?,
                suite,
                &full_name(name),
                now(),
                &Console::new(),
            )?;
            println!("{} sha256:{}", stored.name(), stored.image.id);
        }
        ImageCommand::Pull { name, insecure } => {
            if !container::is_reference(name) {
                let error = anyhow!("{name} does not say where from");
                return Err(Failure::with_hint(
                    error,
                    format!("from a registry: donjon image pull docker://{name}"),
                ));
            }
            let how = Pull {
                insecure: *insecure,
                ..Pull::default()
            };
            let stored = container::pull(&store, &Cache::of_user()?, name, &how, &Console::new())?;
            println!("{} sha256:{}", container::full_name(name)?, stored.image.id);
        }
        ImageCommand::Import { file, digest, name } => {
            let name = match name {
                Some(name) => name.clone(),
                None => name_of(file)?,
            };
            check_name(&name)?;
            let console = Console::new();
            let url = file.to_str().filter(|u| download::is_url(u));
            let fetched = url.map(|url| {
                download::fetch(&Cache::of_user()?, url, digest.is_some(), &console).map_err(Failure::from)
            });
            let fetched = fetched.transpose()?;
            let path = fetched.as_ref().map_or(file.as_path(), |f| f.path());
            let stored = import::import(&store, path, digest.as_deref(), &name, &console)?;
            println!("{name} sha256:{}", stored.image.id);
        }
        ImageCommand::Ls { format } => list(&store, *format)?,
        ImageCommand::Rm { images } => {
            let domains = Domains::of(&store);
            domains.sweep()?;
            for image in images {
                let removed = store.remove(&known_as(&store, image), |id| domains.using(id))?;
                println!("{}", removed.name());
            }
        }
        ImageCommand::Inspect { image } => {
            let stored = store.image(&known_as(&store, image))?;
            println!("{}", serde_json::to_string_pretty(&description(&stored))?);
        }
        ImageCommand::Prune => prune(&store)?,
    }
    Ok(exit::SUCCESS)
}

/// The image of a name as the user wrote it; a Debian suite is built if it is not there.
pub fn find_or_make(store: &Store, name: &str) -> Result<Stored, Failure> {
    let full = match container::is_reference(name) {
        true => container::full_name(name)?,
        false => full_name(name),
    };
    match store.image(&full) {
        Err(StoreError::Unknown { .. }) => {}
        other => return Ok(other?),
    }
    if container::is_reference(name) {
        let pulled = container::pull(store, &Cache::of_user()?, name, &Pull::default(), &Console::new());
        return Ok(pulled?);
    }
    let Some(suite) = debian::suite(name) else {
        let error = anyhow!("there is no image {name}");
        let hint = "see which there are: donjon image ls; to get one: donjon image build debian, or donjon image import FILE";
        return Err(Failure::with_hint(error, hint));
    };
    // Whenever it came.
    let since = 0;
    let cache = Cache::of_user()?;
    Ok(debian::build(
        store,
        &cache,
        suite,
        &full,
        since,
        &Console::new(),
    )?)
}

/// `debian:bookworm` for `debian`.
fn full_name(name: &str) -> String {
    match debian::suite(name) {
        Some(suite) => format!("debian:{suite}"),
        None if container::is_reference(name) => {
            container::full_name(name).unwrap_or_else(|_| name.to_owned())
        }
        None => name.to_owned(),
    }
}

/// The name under which the store has what the user means.
fn known_as(store: &Store, name: &str) -> String {
    match store.image(name) {
        Ok(_) => name.to_owned(),
        Err(_) => full_name(name),
    }
}

/// The name of an imported image: that of its file, without an ending.
fn name_of(file: &Path) -> Result<String, Failure> {
    let stem = file.file_stem().map(|s| s.to_string_lossy().to_ascii_lowercase());
    stem.filter(|s| check_name(s).is_ok()).ok_or_else(|| {
        let error = anyhow!("{} has no name for an image", file.display());
        Failure::with_hint(error, "give it one: --name NAME")
    })
}

fn check_name(name: &str) -> Result<(), Failure> {
    let proper = |b: u8| b.is_ascii_alphanumeric() || b"._-:".contains(&b);
    let good = (1..=128).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(proper);
    let own = name == "tiny" || name.starts_with("docker:");
    match good && !own {
        true => Ok(()),
        false => Err(Failure::with_hint(
            anyhow!("{name:?} cannot be the name of an image"),
            "use letters, digits, `.`, `_`, `-` and `:`, such as web:1, but not tiny",
        )),
    }
}

/// What programs get to know of an image.
fn description(stored: &Stored) -> serde_json::Value {
    let room =
        std::fs::metadata(&stored.disk).map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m) * 512);
    serde_json::json!({
        "names": stored.names,
        "id": format!("sha256:{}", stored.image.id),
        "kind": stored.image.kind,
        "source": stored.image.source,
        "system": stored.image.system,
        "size": stored.image.size,
        "room": room,
        "created": stored.image.created,
        "disk": stored.disk,
    })
}

fn list(store: &Store, format: Format) -> Result<(), Failure> {
    let images = store.images_there()?;
    if format == Format::Json {
        let all: Vec<_> = images.iter().map(description).collect();
        println!("{}", serde_json::to_string(&all)?);
        return Ok(());
    }
    let width = images
        .iter()
        .map(|i| i.name().len())
        .chain([4])
        .max()
        .unwrap_or(4);
    println!(
        "{:<width$}  {:<12}  {:>9}  {:>8}  system",
        "name", "identity", "disk", "age"
    );
    for stored in images {
        let names = if stored.names.is_empty() {
            vec!["-".into()]
        } else {
            stored.names.clone()
        };
        for name in names {
            println!(
                "{name:<width$}  {:<12}  {:>8}M  {:>8}  {}",
                stored.image.short(),
                stored.image.size >> 20,
                age(now().saturating_sub(stored.image.created)),
                stored.image.system.as_deref().unwrap_or("-")
            );
        }
    }
    Ok(())
}

/// Seconds, for people.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

/// Removes images without a name that no domain needs.
fn prune(store: &Store) -> Result<(), Failure> {
    let domains = Domains::of(store);
    domains.sweep()?;
    for stored in store.images_there()? {
        if stored.names.is_empty() && domains.using(&stored.image.id).is_empty() {
            store.remove(&stored.image.id, |id| domains.using(id))?;
            println!("{}", stored.image.short());
        }
    }
    container::prune(&Cache::of_user()?)?;
    Ok(())
}
