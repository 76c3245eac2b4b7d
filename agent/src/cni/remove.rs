//! Taking the plugin off the node. Only an operator asks for that; an agent that ends or is replaced leaves all in place,
//! because pods that are made meanwhile must not start past it.

use std::{fs, io};

use super::{
    PLUGIN, Places,
    follow::{apply, look},
    place::unfinished,
    plan::{Step, removal},
};

/// Removes configuration and binary. `told` hears of each thing, and why it is still there if it is.
pub fn remove(places: &Places, told: &mut dyn FnMut(String, Option<io::Error>)) {
    let directory = &places.configurations;
    let mut is_called = false;
    for step in look(directory).map(|files| removal(&files)).unwrap_or_default() {
        let what = match &step {
            Step::Remove { name } => format!("CNI configuration {}", directory.join(name).display()),
            Step::Write { name, .. } => format!("{PLUGIN} from CNI configuration {}", directory.join(name).display()),
            Step::Rename { from, .. } => format!("the ending of {}", directory.join(from).display()),
        };
        let failure = apply(directory, &step).err();
        is_called |= failure.is_some();
        told(what, failure);
    }
    for left in [directory, &places.binaries]
        .into_iter()
        .flat_map(|directory| unfinished(directory))
    {
        told(format!("unfinished {}", left.display()), fs::remove_file(&left).err());
    }
    let binary = places.binaries.join(PLUGIN);
    if fs::symlink_metadata(&binary).is_err() {
        return;
    }
    // A runtime that finds the name and not the binary starts no pod at all.
    let failure = if is_called {
        Some(io::Error::other("a CNI configuration still names it"))
    } else {
        fs::remove_file(&binary).err()
    };
    told(format!("CNI plugin {}", binary.display()), failure);
}

#[cfg(test)]
mod tests {
    use super::{super::follow::tests::Folder, *};
    use crate::cni::OWN_CONFLIST;

    const OURS: &str = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"},{"type":"isthmus-cni"}]}"#;

    fn places(folder: &Folder) -> Places {
        Places {
            binaries: folder.0.join("bin"),
            configurations: folder.0.join("net.d"),
            platform: None,
        }
    }

    fn told(places: &Places) -> Vec<(String, bool)> {
        let mut told = Vec::new();
        remove(places, &mut |what, failure| told.push((what, failure.is_none())));
        told
    }

    #[test]
    fn everything_goes_and_what_others_wrote_stays() {
        let folder = Folder::new("remove");
        folder.write("bin/isthmus-cni", "binary");
        folder.write("bin/.isthmus-cni.isthmus-new", "half of it");
        folder.write("bin/bridge", "binary");
        folder.write("net.d/00-isthmus.conflist", OURS);
        folder.write("net.d/.00-isthmus.conflist.isthmus-new", "half of it");
        folder.write("net.d/10-a.conflist", OURS);
        folder.write("net.d/20-b.conflist", OURS);
        folder.write("net.d/20-b.conf.isthmus-replaced", r#"{"type":"bridge"}"#);
        folder.write("net.d/30-others.conflist", "not even JSON");
        let places = places(&folder);
        let told = told(&places);
        assert!(told.iter().all(|(_, done)| *done), "{told:?}");
        assert_eq!(folder.names_in("bin"), ["bridge"]);
        assert_eq!(
            folder.names_in("net.d"),
            ["10-a.conflist", "20-b.conf", "30-others.conflist"]
        );
        let left = fs::read_to_string(places.configurations.join("10-a.conflist")).unwrap();
        assert!(left.contains("bridge") && !left.contains("isthmus"), "{left}");
        assert_eq!(super::tests::told(&places), [], "a second time there is nothing to do");
    }

    #[test]
    fn the_binary_stays_while_a_configuration_names_it() {
        let folder = Folder::new("stays");
        folder.write("bin/isthmus-cni", "binary");
        // A folder where the new text would be written: the edit fails.
        folder.write("net.d/.10-a.conflist.isthmus-new/x", "in the way");
        folder.write("net.d/10-a.conflist", OURS);
        let told = told(&places(&folder));
        assert_eq!(told.len(), 2);
        assert!(told.iter().all(|(_, done)| !done), "{told:?}");
        assert_eq!(folder.names_in("bin"), ["isthmus-cni"]);
    }

    #[test]
    fn a_node_without_any_of_it_is_left_alone() {
        let folder = Folder::new("none");
        folder.write("net.d/10-a.conflist", r#"{"name":"n","plugins":[{"type":"bridge"}]}"#);
        assert_eq!(told(&places(&folder)), []);
        assert!(!folder.0.join("net.d").join(OWN_CONFLIST).exists());
    }
}
