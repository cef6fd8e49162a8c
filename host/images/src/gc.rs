//! Which images automatic garbage collection removes: decided here without input or output, carried out in `remove`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::model::{Image, Use};

/// One rule of garbage collection. Rules are taken in order, each on what the ones before it leave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcPolicy {
    /// Bytes that all images together may keep; images go until no more are used. None: every image that fits goes.
    pub keep_storage: Option<u64>,
    /// Only images that got no name here for so many seconds: by pull, load, import or tag. An image that never had one
    /// is as old as it says.
    pub min_age: u64,
    /// Only images without a name.
    pub dangling: bool,
    /// Labels that must be there: name, value.
    pub labels: Vec<(String, Option<String>)>,
    /// Labels that keep an image.
    pub not_labels: Vec<(String, Option<String>)>,
}

/// An image that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doomed {
    /// Its id.
    pub image: String,
    /// Position of the policy that says so.
    pub policy: usize,
    /// Bytes of layers that nothing needs once it and those before it are gone.
    pub frees: u64,
}

/// Whether an image's labels have this one.
pub(crate) fn has_label(image: &Image, name: &str, value: Option<&String>) -> bool {
    let found = image.config.labels.as_ref().and_then(|labels| labels.get(name));
    found.is_some_and(|found| value.is_none_or(|value| value == found))
}

/// Seconds since 1970 from which on an image has been of no use here.
fn last_use(image: &Image) -> i64 {
    let named = i64::try_from(image.last_tag_time / 1_000_000_000).unwrap_or(0);
    named.max(image.created_unix)
}

impl GcPolicy {
    fn fits(&self, image: &Image, now: i64) -> bool {
        let age = u64::try_from(now.saturating_sub(last_use(image))).unwrap_or(0);
        age >= self.min_age
            && (!self.dangling || image.is_dangling())
            && self.labels.iter().all(|(name, value)| has_label(image, name, value.as_ref()))
            && !self.not_labels.iter().any(|(name, value)| has_label(image, name, value.as_ref()))
    }
}

/// Decides which images go, in the order in which they go: those least lately named first. Images of containers stay, and
/// so do images that others were made from, as long as those are there.
///
/// `layers` are the sizes of all layers by chain id, `now` is in seconds since 1970.
pub fn plan<S: std::hash::BuildHasher>(
    images: &[Arc<Image>],
    layers: &HashMap<String, u64, S>,
    uses: &[Use],
    policies: &[GcPolicy],
    now: i64,
) -> Vec<Doomed> {
    let used: HashSet<&str> = uses.iter().map(|u| u.image.as_str()).collect();
    let mut left: BTreeMap<&str, &Arc<Image>> = images.iter().map(|i| (i.id.as_str(), i)).collect();
    let mut users: HashMap<&str, usize> = HashMap::new();
    for layer in images.iter().flat_map(|image| image.layers.iter()) {
        *users.entry(layer.chain_id.as_str()).or_default() += 1;
    }
    let mut total: u64 = layers.values().sum();
    let mut doomed = Vec::new();
    for (position, policy) in policies.iter().enumerate() {
        // Removing a child can make its parent removable, so once is not enough.
        loop {
            let parents: HashSet<&str> = left.values().filter_map(|i| i.parent.as_deref()).collect();
            let mut fit: Vec<&Arc<Image>> = left
                .values()
                .copied()
                .filter(|image| !used.contains(image.id.as_str()) && !parents.contains(image.id.as_str()))
                .filter(|image| policy.fits(image, now))
                .collect();
            fit.sort_by_key(|image| (last_use(image), &image.id));
            let before = doomed.len();
            for image in fit {
                if policy.keep_storage.is_some_and(|keep| total <= keep) {
                    break;
                }
                let mut frees = 0u64;
                for layer in image.layers.iter() {
                    let Some(count) = users.get_mut(layer.chain_id.as_str()) else { continue };
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        frees += layers.get(&layer.chain_id).copied().unwrap_or(0);
                    }
                }
                total = total.saturating_sub(frees);
                left.remove(image.id.as_str());
                doomed.push(Doomed { image: image.id.clone(), policy: position, frees });
            }
            if doomed.len() == before {
                break;
            }
        }
    }
    doomed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{ImageConfig, LayerRef};

    fn image(id: &str, named: i64, layers: &[&str], labels: &[&str]) -> Arc<Image> {
        let labels: BTreeMap<String, String> = labels.iter().map(|l| ((*l).into(), "1".into())).collect();
        Arc::new(Image {
            id: id.into(),
            repo_tags: if named > 0 { vec![format!("{id}:latest")] } else { vec![] },
            repo_digests: vec![],
            indexes: vec![],
            created: None,
            created_unix: 5,
            architecture: String::new(),
            variant: String::new(),
            os: String::new(),
            os_version: String::new(),
            author: String::new(),
            comment: String::new(),
            config: Arc::new(ImageConfig { labels: Some(labels), ..ImageConfig::default() }),
            history: Arc::default(),
            layers: Arc::new(
                layers
                    .iter()
                    .map(|l| LayerRef { diff_id: (*l).into(), chain_id: (*l).into(), size: 10 })
                    .collect(),
            ),
            size: 0,
            parent: None,
            last_tag_time: i128::from(named) * 1_000_000_000,
            raw_config: "{}".into(),
        })
    }

    fn sizes(images: &[Arc<Image>]) -> HashMap<String, u64> {
        images.iter().flat_map(|i| i.layers.iter()).map(|l| (l.chain_id.clone(), l.size)).collect()
    }

    fn ids(images: &[Arc<Image>], uses: &[&str], policies: &[GcPolicy]) -> Vec<String> {
        let uses: Vec<Use> =
            uses.iter().map(|i| Use { container: "c".into(), image: (*i).into(), running: false }).collect();
        plan(images, &sizes(images), &uses, policies, 1000).into_iter().map(|d| d.image).collect()
    }

    #[test]
    fn the_least_lately_named_go_until_there_is_room() {
        let images = [
            image("a", 300, &["base", "a"], &[]),
            image("b", 100, &["base", "b"], &[]),
            image("c", 200, &["base", "c"], &[]),
        ];
        // 40 bytes in 4 layers; the shared one is freed with the last image only.
        let keep = |bytes| [GcPolicy { keep_storage: Some(bytes), ..GcPolicy::default() }];
        assert_eq!(ids(&images, &[], &keep(40)), Vec::<String>::new());
        assert_eq!(ids(&images, &[], &keep(39)), ["b"]);
        assert_eq!(ids(&images, &[], &keep(29)), ["b", "c"]);
        assert_eq!(ids(&images, &[], &keep(0)), ["b", "c", "a"]);
        let freed: Vec<u64> =
            plan(&images, &sizes(&images), &[], &keep(0), 1000).iter().map(|d| d.frees).collect();
        assert_eq!(freed, [10, 10, 20]);
    }

    #[test]
    fn containers_labels_age_and_names_keep_images() {
        let images =
            [image("a", 300, &["a"], &["keep"]), image("b", 990, &["b"], &[]), image("c", 0, &["c"], &[])];
        let all = GcPolicy::default();
        assert_eq!(ids(&images, &["c"], std::slice::from_ref(&all)), ["a", "b"]);
        let label = GcPolicy { not_labels: vec![("keep".into(), None)], ..all.clone() };
        assert_eq!(ids(&images, &[], &[label]), ["c", "b"]);
        let other = GcPolicy { not_labels: vec![("keep".into(), Some("2".into()))], ..all.clone() };
        assert_eq!(ids(&images, &[], &[other]), ["c", "a", "b"]);
        let only = GcPolicy { labels: vec![("keep".into(), Some("1".into()))], ..all.clone() };
        assert_eq!(ids(&images, &[], &[only]), ["a"]);
        let old = GcPolicy { min_age: 11, ..all.clone() };
        assert_eq!(ids(&images, &[], &[old]), ["c", "a"]);
        let dangling = GcPolicy { dangling: true, ..all.clone() };
        assert_eq!(ids(&images, &[], std::slice::from_ref(&dangling)), ["c"]);
        // In order: each on what the others leave.
        assert_eq!(ids(&images, &[], &[dangling, GcPolicy { keep_storage: Some(10), ..all }]), ["c", "a"]);
    }

    #[test]
    fn a_parent_goes_after_its_children_or_not_at_all() {
        let parent = image("p", 1, &["p"], &[]);
        let mut child = image("k", 500, &["p", "k"], &["keep"]);
        Arc::get_mut(&mut child).unwrap().parent = Some("p".into());
        let images = [parent, child];
        assert_eq!(ids(&images, &[], &[GcPolicy::default()]), ["k", "p"]);
        let keep = GcPolicy { not_labels: vec![("keep".into(), None)], ..GcPolicy::default() };
        assert_eq!(ids(&images, &[], &[keep]), Vec::<String>::new());
    }
}
