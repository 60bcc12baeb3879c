//! Says that Shuttle is in charge.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cfg=shuttle");
}
