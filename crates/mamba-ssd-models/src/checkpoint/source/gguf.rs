//! GGUF, llama.cpp's container: metadata, a table of tensors, the data.
//!
//! All lengths are held against the size of the file before anything is allocated. The blocks of
//! quantised tensors are turned into f32 by `candle-core`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;

use burn::tensor::TensorData;
use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::ggml_file::qtensor_from_ggml;

use super::super::stored::{Stored, Tensors};
use super::read_error;
use crate::ModelError;

/// Arrays nest no deeper than this; real files have no arrays of arrays.
const DEEPEST: usize = 4;
/// The kinds of values of one byte, and how many a list may hold: each takes 32 bytes in memory, and no
/// tokenizer has such a list.
const BYTES: [u32; 3] = [0, 1, 7];
const MOST_BYTES: u64 = 1 << 16;
/// Axes of a tensor, at most.
const MOST_AXES: u32 = 4;
/// Where tensors begin when the file does not say: at multiples of this.
const ALIGNMENT: u64 = 32;

/// A file's metadata and tensors.
pub(in crate::checkpoint) struct Gguf {
    metadata: BTreeMap<String, Value>,
    tensors: Tensors<'static>,
}

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::checkpoint) enum Value {
    Whole(i64),
    Real(f64),
    Bool(bool),
    Text(String),
    List(Vec<Value>),
}

impl Gguf {
    /// Reads everything but the data.
    pub(in crate::checkpoint) fn open(path: &Path) -> Result<Self, ModelError> {
        let mut tensors = Tensors::new(path.to_path_buf());
        let file = File::open(path).map_err(|source| read_error(path, source))?;
        let size = file.metadata().map_err(|source| read_error(path, source))?.len();
        let mut reader = Reader { file: BufReader::new(file), left: size };
        let header = Header::read(&mut reader).map_err(|reason| tensors.malformed(reason))?;
        let start = (size - reader.left).next_multiple_of(header.alignment);
        let file = Rc::new(reader.file.into_inner());
        for info in header.tensors {
            let name = info.name.clone();
            let tensor =
                info.stored(start, size, file.clone(), path).map_err(|reason| tensors.malformed(reason))?;
            tensors.insert(name, tensor)?;
        }
        Ok(Self { metadata: header.metadata, tensors })
    }

    /// A value of the metadata.
    pub(in crate::checkpoint) fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    pub(in crate::checkpoint) fn into_tensors(self) -> Tensors<'static> {
        self.tensors
    }

    pub(in crate::checkpoint) fn tensors(&self) -> &Tensors<'static> {
        &self.tensors
    }
}

impl Value {
    pub(in crate::checkpoint) fn as_usize(&self) -> Option<usize> {
        match self {
            Self::Whole(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    pub(in crate::checkpoint) fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Real(value) => Some(*value),
            Self::Whole(value) => Some(*value as f64),
            _ => None,
        }
    }

    pub(in crate::checkpoint) fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub(in crate::checkpoint) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(value) => Some(value),
            _ => None,
        }
    }

    pub(in crate::checkpoint) fn as_list(&self) -> Option<&[Value]> {
        match self {
            Self::List(values) => Some(values),
            _ => None,
        }
    }
}

/// What was found and what was expected.
type Parsed<T> = Result<T, String>;

/// What stands before the data.
struct Header {
    metadata: BTreeMap<String, Value>,
    tensors: Vec<TensorInfo>,
    alignment: u64,
}

impl Header {
    fn read(reader: &mut Reader) -> Parsed<Self> {
        let [_magic, version] = [reader.u32()?, reader.u32()?];
        if !(2..=3).contains(&version) {
            return Err(format!("GGUF version {version}, expected 2 or 3 in little-endian order"));
        }
        let (tensor_count, metadata_count) = (reader.u64()?, reader.u64()?);
        let mut metadata = BTreeMap::new();
        for _ in 0..metadata_count {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = reader.value(kind, 0)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(format!("the metadata name `{key}` twice"));
            }
        }
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(TensorInfo::read(reader)?);
        }
        let alignment = metadata.get("general.alignment").map_or(Some(ALIGNMENT as usize), Value::as_usize);
        match alignment {
            Some(alignment) if alignment.is_power_of_two() && alignment <= 1 << 30 => {
                Ok(Self { metadata, tensors, alignment: alignment as u64 })
            }
            _ => Err("`general.alignment` is no power of two".into()),
        }
    }
}

/// A row of the table of tensors.
struct TensorInfo {
    name: String,
    shape: Vec<usize>,
    dtype: GgmlDType,
    offset: u64,
}

impl TensorInfo {
    fn read(reader: &mut Reader) -> Parsed<Self> {
        let name = reader.text()?;
        let axes = reader.u32()?;
        if axes > MOST_AXES {
            return Err(format!("`{name}` has {axes} axes, expected at most {MOST_AXES}"));
        }
        let mut shape = Vec::new();
        for _ in 0..axes {
            let size = reader.u64()?;
            let axis = usize::try_from(size).ok().filter(|&axis| axis > 0);
            shape.push(axis.ok_or_else(|| format!("`{name}` has an axis of {size}"))?);
        }
        shape.reverse(); // the file names the fastest axis first
        let code = reader.u32()?;
        let dtype = dtype(code).ok_or_else(|| {
            format!("`{name}` has GGML type {code}, which is not covered; expected {COVERED}")
        })?;
        Ok(Self { name, shape, dtype, offset: reader.u64()? })
    }

    /// Bytes of the tensor, if there can be so many.
    fn bytes(&self) -> Option<u64> {
        let elements = self.shape.iter().try_fold(1usize, |product, &axis| product.checked_mul(axis))?;
        let (block, size) = (self.dtype.block_size(), self.dtype.type_size());
        let whole = self.shape.last().is_none_or(|axis| axis.is_multiple_of(block));
        (whole && elements.is_multiple_of(block)).then_some(())?;
        u64::try_from((elements / block).checked_mul(size)?).ok()
    }

    fn stored(self, start: u64, size: u64, file: Rc<File>, path: &Path) -> Parsed<Stored<'static>> {
        let bytes = self
            .bytes()
            .ok_or_else(|| format!("`{}` cannot be {:?} {:?}", self.name, self.shape, self.dtype))?;
        let from = start
            .checked_add(self.offset)
            .filter(|from| from.checked_add(bytes).is_some_and(|end| end <= size));
        let from = from.ok_or_else(|| {
            format!(
                "`{}` lies beyond the {size} bytes of the file; it is truncated, download it again",
                self.name
            )
        })?;
        let (path, name, dtype, shape) = (path.to_path_buf(), self.name, self.dtype, self.shape.clone());
        Ok(Stored::new(format!("{:?}", self.dtype), self.shape, move || {
            let raw = read_at(&file, from, bytes).map_err(|source| read_error(&path, source))?;
            let values = dequantised(&raw, dtype, &shape).map_err(|error| ModelError::Weights {
                path: path.clone(),
                reason: format!("`{name}` cannot be turned into numbers: {error}"),
            })?;
            Ok(TensorData::new(values, shape.clone()))
        }))
    }
}

fn read_at(mut file: &File, from: u64, bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut raw = vec![0; bytes as usize];
    file.seek(SeekFrom::Start(from))?;
    file.read_exact(&mut raw)?;
    Ok(raw)
}

fn dequantised(raw: &[u8], dtype: GgmlDType, shape: &[usize]) -> candle_core::Result<Vec<f32>> {
    let tensor = qtensor_from_ggml(dtype, raw, shape.to_vec(), &Device::Cpu)?;
    tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()
}

const COVERED: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or Q2_K to Q6_K";

fn dtype(code: u32) -> Option<GgmlDType> {
    Some(match code {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

/// Reads little-endian values, and knows how much is left.
struct Reader {
    file: BufReader<File>,
    left: u64,
}

impl Reader {
    fn bytes(&mut self, count: u64) -> Parsed<Vec<u8>> {
        if count > self.left {
            return Err(format!(
                "{count} bytes expected, {} left; the file is truncated or damaged",
                self.left
            ));
        }
        let mut bytes = vec![0; count as usize];
        self.file.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        self.left -= count;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let bytes = self.bytes(N as u64)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    fn u32(&mut self) -> Parsed<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Parsed<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Parsed<String> {
        let length = self.u64()?;
        let bytes = self.bytes(length)?;
        String::from_utf8(bytes).map_err(|_| "a text of the metadata is not UTF-8".into())
    }

    fn value(&mut self, kind: u32, depth: usize) -> Parsed<Value> {
        Ok(match kind {
            0 => Value::Whole(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Whole(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Whole(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Whole(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Whole(self.u32()?.into()),
            5 => Value::Whole(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Real(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()? != [0]),
            8 => Value::Text(self.text()?),
            9 => self.list(depth)?,
            10 => Value::Whole(i64::try_from(self.u64()?).unwrap_or(i64::MAX)),
            11 => Value::Whole(i64::from_le_bytes(self.array()?)),
            12 => Value::Real(f64::from_le_bytes(self.array()?)),
            _ => return Err(format!("the metadata have a value of kind {kind}, expected 0 to 12")),
        })
    }

    fn list(&mut self, depth: usize) -> Parsed<Value> {
        if depth == DEEPEST {
            return Err(format!("the metadata nest lists deeper than {DEEPEST}"));
        }
        let (kind, count) = (self.u32()?, self.u64()?);
        if BYTES.contains(&kind) && count > MOST_BYTES {
            return Err(format!(
                "the metadata have a list of {count} single bytes, expected at most {MOST_BYTES}"
            ));
        }
        let mut values = Vec::new(); // grows with what is read: a count proves nothing
        for _ in 0..count {
            values.push(self.value(kind, depth + 1)?);
        }
        Ok(Value::List(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    fn data(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
    }

    /// Two rows of every covered type, against what the gguf package of Python makes of them.
    #[test]
    fn quantised_blocks_are_the_numbers_that_the_gguf_package_finds() {
        let gguf = Gguf::open(&data("quants.gguf")).expect("a file");
        let list = [1, 2, 3].map(Value::Whole).to_vec();
        assert_eq!(gguf.get("test.list"), Some(&Value::List(list)));
        let golden = std::fs::read(data("quants.golden.safetensors")).expect("a file");
        let golden = SafeTensors::deserialize(&golden).expect("a file");
        assert_eq!(golden.len(), 13);
        for (key, expected) in golden.iter() {
            let tensor = gguf.tensors().get(key).unwrap_or_else(|| panic!("{key}"));
            assert_eq!(tensor.shape(), [2, 512], "{key}");
            let found: Vec<f32> = tensor.read().expect("readable").try_to_vec().expect("f32");
            let expected = expected.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            for (found, expected) in found.into_iter().zip(expected) {
                // Both multiply a scale by a code; one may fuse the addition that follows.
                assert!(
                    (found - expected).abs() <= 1e-6 * expected.abs().max(1.0),
                    "{key}: {found} {expected}"
                );
            }
        }
    }
}
