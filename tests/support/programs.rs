//! Programs that run beside a test, and what they need.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A program that runs until this is dropped.
pub struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// The command line is split at blanks.
    pub fn start(dir: &Path, name: &'static str, command: &str) -> Self {
        let (program, arguments) = command.split_once(' ').unwrap();
        let log = dir.join(format!("{name}.log"));
        let out = std::fs::File::create(&log).unwrap();
        let mut command = Command::new(program);
        command.args(arguments.split(' ')).current_dir(dir).stdin(Stdio::null());
        let child = command.stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        Self { name, child, log }
    }

    /// Ends it as a terminal does, and waits.
    #[allow(dead_code)]
    pub fn interrupt(&mut self) {
        run(Command::new("kill").args(["-INT", &self.child.id().to_string()]));
        self.child.wait().unwrap();
    }

    /// What it said.
    pub fn log(&self) -> String {
        format!("{}:\n{}", self.name, std::fs::read_to_string(&self.log).unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; waiting tells either way.
        drop(self.child.kill());
        self.child.wait().unwrap();
    }
}

/// An authority (ca.pem), and for each of these a certificate with these names (FILE.pem, FILE.key).
pub fn certificates(dir: &Path, wanted: &[(&str, &[&str])]) {
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "destguard test authority");
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let issuer = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.join("ca.pem"), issuer.pem()).unwrap();
    for (file, names) in wanted {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, names[0].as_str());
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(dir.join(format!("{file}.pem")), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        std::fs::write(dir.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }
}

/// Standard output of what must succeed.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Writes a file; `DIR` in its text is where it lies.
pub fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text.replace("DIR", &dir.display().to_string())).unwrap();
}
