//! The file of lines that were not taken: the reason, the line's number, and the line whole.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context as _, Result};

/// Where lines are kept aside. The file is made with the first of them.
#[derive(Debug)]
pub(crate) struct Quarantine {
    path: PathBuf,
    /// Set where one file serves several inputs: it then stands before the line's number.
    prefix: Option<String>,
    writer: Mutex<Writer>,
}

#[derive(Debug, Default)]
struct Writer {
    file: Option<csv::Writer<BufWriter<File>>>,
    lines: u64,
}

impl Quarantine {
    pub(crate) fn new(path: PathBuf) -> Quarantine {
        Quarantine {
            path,
            prefix: None,
            writer: Mutex::default(),
        }
    }

    /// Line numbers are written as `name:line` from here on.
    pub(crate) fn set_prefix(&mut self, name: &str) {
        self.prefix = Some(format!("{name}:"));
    }

    /// Keeps one line aside.
    ///
    /// # Errors
    /// When it cannot be written: a line must not get lost, so the import stops.
    pub(crate) fn keep<'f>(
        &self,
        reason: &[u8],
        line: u64,
        fields: impl IntoIterator<Item = &'f [u8]>,
    ) -> Result<()> {
        let wrong = || {
            format!(
                "cannot write {}; give another with --quarantine",
                self.path.display()
            )
        };
        let mut writer = self
            .writer
            .lock()
            .expect("no thread panics while it writes");
        writer.lines += 1;
        if writer.file.is_none() {
            let file = File::create(&self.path).with_context(wrong)?;
            // Lines of one file may have different numbers of fields.
            let mut file = csv::WriterBuilder::new()
                .flexible(true)
                .from_writer(BufWriter::new(file));
            file.write_record(["reason", "line", "fields as they came"])
                .with_context(wrong)?;
            writer.file = Some(file);
        }
        let file = writer.file.as_mut().expect("made above");
        let number = format!("{}{line}", self.prefix.as_deref().unwrap_or_default());
        file.write_field(reason).with_context(wrong)?;
        file.write_field(number).with_context(wrong)?;
        for field in fields {
            file.write_field(field).with_context(wrong)?;
        }
        file.write_record(None::<&[u8]>).with_context(wrong)
    }

    /// Ends the file; its path, if there is one, and the number of lines in it.
    pub(crate) fn finish(&self) -> Result<Option<(PathBuf, u64)>> {
        let mut writer = self
            .writer
            .lock()
            .expect("no thread panics while it writes");
        let lines = writer.lines;
        let Some(file) = &mut writer.file else {
            return Ok(None);
        };
        file.flush()
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(Some((self.path.clone(), lines)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_whole_and_the_file_only_when_there_are_some() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("q.csv");
        let mut quarantine = Quarantine::new(path.clone());
        assert_eq!(quarantine.finish().expect("nothing to write"), None);
        assert!(!path.exists());
        let fields: [&[u8]; 2] = [b"POST, \"UK\"", b"1"];
        quarantine.keep(b"no article", 7, fields).expect("written");
        quarantine.set_prefix("b.csv");
        let fields: [&[u8]; 1] = [b"x"];
        quarantine.keep(b"why", 8, fields).expect("written");
        assert_eq!(
            quarantine.finish().expect("written"),
            Some((path.clone(), 2))
        );
        assert_eq!(
            std::fs::read_to_string(&path).expect("a file"),
            "reason,line,fields as they came\nno article,7,\"POST, \"\"UK\"\"\",1\nwhy,b.csv:8,x\n"
        );
    }
}
