/// Declares a set of flags. With the feature `component` it is a WIT `flags` type, otherwise a small integer with
/// the same names; either way it serialises as the list of the names that are set.
macro_rules! flags_type {
    ($name:ident { $($wit:literal $flag:ident,)* }) => {
        #[cfg(feature = "component")]
        wasmtime::component::flags! {
            $name { $(#[component(name = $wit)] const $flag;)* }
        }
        #[cfg(not(feature = "component"))]
        #[doc = concat!("The flags `", stringify!($name), "` of the contract.")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name(u32);
        #[cfg(not(feature = "component"))]
        flags_type!(@consts $name, 0, $($flag,)*);
        #[cfg(not(feature = "component"))]
        impl $name {
            /// No flag.
            pub const fn empty() -> Self { Self(0) }
        }
        #[cfg(not(feature = "component"))]
        impl std::ops::BitOr for $name { type Output = Self; fn bitor(self, o: Self) -> Self { Self(self.0 | o.0) } }
        #[cfg(not(feature = "component"))]
        impl std::ops::BitAnd for $name { type Output = Self; fn bitand(self, o: Self) -> Self { Self(self.0 & o.0) } }
        #[cfg(not(feature = "component"))]
        impl std::ops::BitOrAssign for $name { fn bitor_assign(&mut self, o: Self) { self.0 |= o.0 } }

        impl $name {
            /// Whether every flag of `other` is set.
            pub fn has(self, other: Self) -> bool { (self & other) == other }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                let mut names: Vec<&str> = Vec::new();
                $(if self.has(Self::$flag) { names.push($wit) })*
                names.serialize(s)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let mut all = Self::empty();
                for name in Vec::<String>::deserialize(d)? {
                    match name.as_str() {
                        $($wit => all |= Self::$flag,)*
                        _ => return Err(serde::de::Error::custom(format!("unknown flag {name}"))),
                    }
                }
                Ok(all)
            }
        }
    };
    (@consts $name:ident, $at:expr, ) => {};
    (@consts $name:ident, $at:expr, $flag:ident, $($rest:ident,)*) => {
        impl $name {
            #[doc = concat!("`", stringify!($flag), "`.")]
            pub const $flag: Self = Self(1 << ($at));
        }
        flags_type!(@consts $name, $at + 1, $($rest,)*);
    };
}
