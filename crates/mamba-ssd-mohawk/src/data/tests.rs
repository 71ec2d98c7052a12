use burn::tensor::Device;

use super::*;

const EOS: u32 = 9;

fn dataset() -> Dataset {
    let documents = vec![vec![1, 2, 3], vec![4], vec![], vec![5, 6]];
    Dataset::from_documents(documents, EOS).expect("documents")
}

#[test]
fn a_row_knows_documents_targets_and_masks() {
    let row = batch::Row::cut(&dataset(), 1, 7);
    assert_eq!(row.tokens, [2, 3, 9, 4, 9, 5, 6]);
    assert_eq!(row.starts, [0, 0, 0, 3, 3, 5, 5]);
    assert_eq!(row.mask, [true, true, false, true, false, true, true]);
    assert_eq!(row.targets[..2], [3, 9]);
    assert_eq!(row.targets[6], 9);
}

#[test]
fn a_row_that_wraps_around_begins_a_new_document() {
    let row = batch::Row::cut(&dataset(), 7, 4);
    assert_eq!(row.tokens, [6, 9, 1, 2]);
    assert_eq!(row.starts, [0, 0, 2, 2]);
    assert_eq!(row.mask, [true, false, true, true]);
}

#[test]
fn a_stream_shorter_than_a_row_is_padded_and_masked() {
    let data = dataset();
    let mut loader = Loader::new(&data, 12, 0, Cursor::default());
    let row = loader.next_row();
    assert_eq!(row.tokens, [1, 2, 3, 9, 4, 9, 5, 6, 9, 9, 9, 9]);
    assert_eq!(row.starts[9..], [9, 9, 9]);
    assert_eq!(row.mask.iter().filter(|&&counts| counts).count(), 6);
}

#[test]
fn prompts_carry_no_loss() {
    let document = Document { tokens: vec![1, 2, 3, 4], prompt: 2 };
    let data = Dataset::from_documents([document], EOS).expect("a document");
    let row = batch::Row::cut(&data, 0, 5);
    // The first prediction that counts is that of token 3.
    assert_eq!(row.mask, [false, true, true, true, false]);
}

#[test]
fn an_epoch_sees_every_row_once_and_epochs_differ() {
    let documents: Vec<Vec<u32>> = (0..40).map(|d| vec![d; 7]).collect();
    let data = Dataset::from_documents(documents, 99).expect("documents");
    let mut loader = Loader::new(&data, 16, 3, Cursor::default());
    let mut epoch =
        || -> Vec<Vec<u32>> { (0..loader.rows_per_epoch()).map(|_| loader.next_row().tokens).collect() };
    let (first, second) = (epoch(), epoch());
    assert_ne!(first, second);
    let mut counts = vec![0; 100];
    first.iter().flatten().for_each(|&token| counts[token as usize] += 1);
    assert!(counts[..40].iter().all(|&n| n == 7), "{counts:?}");
}

#[test]
fn a_loader_continues_from_its_cursor() {
    let data = Dataset::from_documents((0..30).map(|d| vec![d; 5]), 99).expect("documents");
    let mut whole = Loader::new(&data, 8, 1, Cursor::default());
    let taken = whole.rows_per_epoch() + 3;
    (0..taken).for_each(|_| drop(whole.next_row()));
    let mut resumed = Loader::new(&data, 8, 1, whole.cursor());
    for _ in 0..2 * taken {
        assert_eq!(whole.next_row(), resumed.next_row());
    }
}

#[test]
fn a_batch_of_whole_documents_needs_neither_mask_nor_segments() {
    let data = Dataset::from_documents([vec![1; 50]], EOS).expect("a document");
    let rows = [batch::Row::cut(&data, 0, 8), batch::Row::cut(&data, 8, 8)];
    let batch = Batch::from_rows(&rows, &Device::flex());
    assert!(batch.mask.is_none() && batch.segments.is_none());
    assert_eq!((batch.tokens_count(), batch.counts.targets), (16, 16));

    let rows = [batch::Row::cut(&data, 47, 8)];
    let batch = Batch::from_rows(&rows, &Device::flex());
    assert!(batch.mask.is_some() && batch.segments.is_some());
    assert!(batch.present.is_none());
    assert_eq!((batch.counts.targets, batch.counts.present), (7, 8));
}

#[test]
fn the_fingerprint_tells_datasets_apart() {
    let other = Dataset::from_documents([vec![1, 2, 3, EOS, 4], vec![5, 6]], EOS).expect("some");
    assert_eq!(other.tokens, dataset().tokens);
    assert_ne!(other.fingerprint(), dataset().fingerprint());
}

#[test]
fn files_are_read_strictly() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("writable");
        path
    };
    let read = |path: &std::path::Path, marker| {
        read_texts(path, TextFormat { marker, ..TextFormat::new("text") }).map(|read| read.texts)
    };
    let good = write("good.jsonl", "{\"text\": \"Q: a? A: b\"}\n\n{\"text\": \"c\"}\n");
    let texts = read(&good, Some("A:")).expect("two texts");
    assert_eq!(texts.len(), 2);
    assert_eq!((texts[0].prompt, texts[1].prompt), (8, 0));
    let bytes = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
    assert_eq!(texts[0].encode(bytes).prompt, 8);

    let plain = write("plain.txt", "one\ntwo\n\n\n\nthree\n");
    assert_eq!(read(&plain, None).expect("two texts").len(), 2);

    let message = |path: &std::path::Path| match read(path, None) {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.to_string(),
    };
    assert!(message(&write("empty.jsonl", "\n")).contains("holds no text"));
    assert!(message(&write("bad.jsonl", "{\"text\": \"a\"}\n{")).contains("line 2"));
    assert!(message(&write("field.jsonl", "{\"body\": \"a\"}")).contains("no field `text`, found `body`;"));
    assert!(message(&folder.path().join("absent.jsonl")).contains("absent.jsonl"));
}

#[test]
fn a_field_of_its_own_may_hold_the_prompt() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("traces.jsonl");
    let read = |content: &str| {
        std::fs::write(&path, content).expect("writable");
        let format =
            TextFormat { prompt_field: Some("prompt"), marker: Some("b"), ..TextFormat::new("text") };
        read_texts(&path, format).map(|read| read.texts).map_err(|error| error.to_string())
    };
    let texts = read("{\"text\": \"é?ab\", \"prompt\": \"é?\"}\n{\"text\": \"b\", \"prompt\": \"\"}\n")
        .expect("two texts");
    assert_eq!((texts[0].prompt, texts[1].prompt), (3, 0));
    let other = read("{\"text\": \"ab\", \"prompt\": \"b\"}").expect_err("another prompt");
    assert!(other.contains("does not begin with the prompt"), "{other}");
    let without = read("{\"text\": \"ab\"}").expect_err("no prompt");
    assert!(without.contains("no field `prompt`") && without.contains("`prompt_field`"), "{without}");
}

#[test]
fn bad_lines_are_named_or_passed_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("texts.jsonl");
    let mut content = b"{\"text\": \"a\"}\r\n{\"text\": \"\xff\"}\n\n{\"text\": 3}\n{\"text\": \"".to_vec();
    content.extend(std::iter::repeat_n(b'x', (64 << 20) + 1));
    content.extend(b"\"}\nnot JSON\n{\"text\": \"b\"}");
    std::fs::write(&path, &content).expect("writable");
    let strict = read_texts(&path, TextFormat::new("text")).expect_err("a bad line").to_string();
    assert!(strict.ends_with("texts.jsonl, line 2: no UTF-8 from byte 11 of the line on"), "{strict}");
    let read =
        read_texts(&path, TextFormat { skip_bad_lines: true, ..TextFormat::new("text") }).expect("two texts");
    let texts: Vec<&str> = read.texts.iter().map(|text| text.text.as_str()).collect();
    assert_eq!(texts, ["a", "b"]);
    let first = "4 bad lines, the first is line 2: no UTF-8 from byte 11 of the line on";
    assert_eq!(read.skipped.to_string(), first);
    // Each of the others by itself.
    let reason = |line: &[u8], skip_bad_lines| {
        std::fs::write(&path, line).expect("writable");
        let format = TextFormat { skip_bad_lines, ..TextFormat::new("text") };
        read_texts(&path, format).expect_err("no text").to_string()
    };
    let lines: Vec<&[u8]> = content.split(|&byte| byte == b'\n').collect();
    assert!(reason(lines[3], false).ends_with("line 1: `text` is a number, expected a string"));
    assert!(reason(lines[4], false).ends_with("line 1: longer than 64 MiB; break it up"));
    assert!(reason(lines[5], false).contains("line 1: no JSON object"));
    let passed = "passed over 1 bad line, the first is line 1: `text` is a number, expected a string";
    assert!(reason(lines[3], true).ends_with(passed));

    let path = folder.path().join("texts.txt");
    std::fs::write(&path, b"one\r\n\r\ntwo\xff\nthree\n\n\n\nfour").expect("writable");
    let read = read_texts(&path, TextFormat { skip_bad_lines: true, ..TextFormat::new("text") })
        .expect("three texts");
    let texts: Vec<&str> = read.texts.iter().map(|text| text.text.as_str()).collect();
    assert_eq!((texts, read.skipped.count), (vec!["one", "three", "four"], 1));
}

#[test]
fn compressed_texts_are_those_that_were_compressed() {
    use std::io::Write;
    let folder = tempfile::tempdir().expect("a folder");
    let lines = b"{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
    let plain = folder.path().join("texts.jsonl");
    std::fs::write(&plain, lines).expect("writable");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(lines).expect("memory");
    std::fs::write(folder.path().join("texts.jsonl.gz"), gz.finish().expect("memory")).expect("writable");
    let zst = ruzstd::encoding::compress_to_vec(&lines[..], ruzstd::encoding::CompressionLevel::Fastest);
    std::fs::write(folder.path().join("texts.jsonl.zst"), zst).expect("writable");
    let read = |name: &str| read_texts(&folder.path().join(name), TextFormat::new("text")).expect(name);
    for name in ["texts.jsonl.gz", "texts.jsonl.zst"] {
        assert_eq!(read(name), read("texts.jsonl"), "{name}");
    }
    assert_eq!(read("texts.jsonl").texts.len(), 2);
}

#[test]
fn aligned_rows_come_again_in_another_order() {
    let data = Dataset::from_documents((0..40u32).map(|i| vec![i % 7; 9]), 9).expect("documents");
    let starts = |aligned: bool| {
        let mut loader = Loader::new(&data, 16, 5, Cursor::default());
        if aligned {
            loader = loader.aligned();
        }
        let rows = loader.rows_per_epoch();
        (0..3).map(|_| loader.next_batch(rows, &Device::flex()).starts).collect::<Vec<_>>()
    };
    let epochs = starts(true);
    assert!(epochs.iter().flatten().all(|start| start % 16 == 0));
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2], "every epoch has an order of its own");
    for epoch in &epochs {
        let mut sorted = epoch.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..400 / 16).map(|row| row * 16).collect::<Vec<_>>());
    }
    assert!(starts(false).iter().flatten().any(|start| start % 16 != 0));
}
