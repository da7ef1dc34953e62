"""MNIST's files are read, packed or not, and a file that is missing, cut off or another one is named."""
import gzip

import pytest
import torch
from backprop_course.files import mnist, read_idx
from torch.testing import assert_close


TRAIN, TRAIN_LABELS, TEST, TEST_LABELS = NAMES = ['train-images-idx3-ubyte', 'train-labels-idx1-ubyte',
                                                  't10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte']


def idx(content):
    return bytes([0, 0, 8, content.ndim]) + b''.join(size.to_bytes(4, 'big') for size in content.shape) + content.numpy().tobytes()


@pytest.fixture
def contents():
    drawn = torch.Generator().manual_seed(0)
    return [torch.randint(most, shape, generator=drawn, dtype=torch.uint8)
            for most, shape in ((256, (6, 28, 28)), (10, (6,)), (256, (4, 28, 28)), (10, (4,)))]


@pytest.fixture
def folder(tmp_path, contents):
    for name, content in zip(NAMES, contents):
        (tmp_path / name).write_bytes(idx(content))
    return tmp_path


def pack(folder, name):
    path = folder / name
    path.with_name(f'{name}.gz').write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return path.with_name(f'{name}.gz')


def test_mnist(folder, contents):
    data = mnist(str(folder))
    raw = contents[0].float()
    assert_close(data.inp, ((raw - raw.mean()) / raw.std()).flatten(1))
    assert_close(data.valid_inp, ((contents[2].float() - raw.mean()) / raw.std()).flatten(1))
    assert data.targ.equal(contents[1].long()) and data.valid_targ.equal(contents[3].long())


def test_packed_and_spelled_otherwise(folder, contents):
    pack(folder, TRAIN)
    (folder / TEST).rename(folder / TEST.replace('-idx', '.idx'))
    packed = pack(folder, TEST_LABELS)
    packed.rename(folder / TEST_LABELS)  # packed, and its name does not say so
    (folder / TRAIN_LABELS).rename(folder / f'{TRAIN_LABELS}.gz')  # and the other way round
    for name, content in zip(NAMES, contents):
        assert read_idx(folder, name, content.ndim).equal(content)
    assert len(mnist(folder).inp) == 6


BREAKS = {
    'cut off': (TRAIN, lambda path, content: path.write_bytes(idx(content)[:-100]),
                r'train-images-idx3-ubyte is truncated, or another file: expected 4,704 bytes for \(6, 28, 28\), got 4,604; get it again'),
    'cut off in the header': (TRAIN, lambda path, content: path.write_bytes(idx(content)[:10]), 'is truncated'),
    'too long': (TEST_LABELS, lambda path, content: path.write_bytes(idx(content) + b'\0'), r'expected 4 bytes for \(4,\), got 5'),
    'a header that promises too much': (TEST_LABELS, lambda path, content: path.write_bytes(b'\0\0\x08\x01\xff\xff\xff\xff' + bytes(4)),
                                        'expected 4,294,967,295 bytes'),
    'nothing in it': (TRAIN, lambda path, content: path.write_bytes(b''), 'is no IDX file of pictures.*got nothing'),
    'no rows': (TRAIN, lambda path, content: path.write_bytes(idx(content[:0])), r'expected 0 bytes for \(0, 28, 28\)'),
    'a page of the web': (TEST, lambda path, content: path.write_bytes(b'<html>'), 'is no IDX file of pictures: expected the bytes 00 00 08 03'),
    'swapped': (TRAIN, lambda path, content: path.write_bytes((path.parent / TRAIN_LABELS).read_bytes()), 'got 00 00 08 01; have two files been swapped'),
    'swapped, too': (TRAIN_LABELS, lambda path, content: path.write_bytes((path.parent / TRAIN).read_bytes()), 'no IDX file of labels.*swapped'),
    'labels of the other part': (TRAIN_LABELS, lambda path, content: path.write_bytes((path.parent / TEST_LABELS).read_bytes()),
                                 'train-images has 6 pictures and train-labels 4 labels; they do not belong together'),
    'packed twice': (TRAIN, lambda path, content: path.write_bytes(gzip.compress(gzip.compress(idx(content)))), 'got 1f 8b 08 00'),
    'packed, and the download broke off': (TRAIN, lambda path, content: path.write_bytes(gzip.compress(idx(content))[:200]), 'truncated or damaged'),
    'packed, and a byte is wrong': (TRAIN, lambda path, content: path.write_bytes(gzip.compress(idx(content))[:-8] + bytes(8)), 'truncated or damaged'),
}


@pytest.mark.parametrize('name, spoil, words', BREAKS.values(), ids=BREAKS)
def test_broken_files(folder, contents, name, spoil, words):
    spoil(folder / name, contents[NAMES.index(name)])
    with pytest.raises(ValueError, match=words) as refused:
        mnist(folder)
    assert name in str(refused.value) or 'belong together' in words


def test_missing_file(folder):
    (folder / TEST_LABELS).unlink()
    with pytest.raises(FileNotFoundError, match=f'mnist expects {TEST_LABELS} or {TEST_LABELS}.gz in .*, got neither; torchvision'):
        mnist(folder)
