"""Rewrite a quantized GGUF with float32 weights, for comparisons with float32 references."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

COPIED_BY_THE_WRITER = ("GGUF.", "general.architecture", "general.file_type")


def dequantise(source: Path, target: Path) -> None:
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for field in reader.fields.values():
        if field.name.startswith(COPIED_BY_THE_WRITER):
            continue
        kind = field.types[0]
        writer.add_key_value(
            field.name,
            field.contents(),
            kind,
            field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None,
        )
    for tensor in reader.tensors:
        weights = gguf.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(weights, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
