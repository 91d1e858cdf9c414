//! A new rule file, or a new file of the demo, must reach the program: include_dir sees changes of files that it knows, not new ones.

fn main() {
    println!("cargo::rerun-if-changed=rules");
    println!("cargo::rerun-if-changed=packaging/demo");
}
