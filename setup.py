"""Packaging: everything that is said here comes from settings.ini."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
config = ConfigParser(delimiters='=')
config.read(here / 'settings.ini', encoding='utf-8')
settings = config['DEFAULT']
course = settings['course_requirements'].split()

class WithoutIndex(build_py):
    "Leave out `_modidx.py`, which only nbdev reads, beside the notebooks."
    def find_package_modules(self, package, package_dir):
        return [module for module in super().find_package_modules(package, package_dir) if module[1] != '_modidx']


setup(
    name=settings['lib_name'],
    version=settings['version'],
    description=settings['description'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    author=settings['author'],
    author_email=settings['author_email'],
    url=settings['git_url'],
    keywords=settings['keywords'].split(),
    classifiers=[
        'Development Status :: 3 - Alpha',
        f'Intended Audience :: {settings["audience"]}',
        f'Natural Language :: {settings["language"]}',
        'Programming Language :: Python :: 3 :: Only',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=[settings['lib_name'] + '*']),
    package_data={'': ['*.css', '*.js', '*.pyi', 'py.typed']},
    cmdclass={'build_py': WithoutIndex},
    python_requires=f'>={settings["min_python"]}',
    install_requires=settings['requirements'].split(),
    extras_require={'course': course, 'dev': course + settings['dev_requirements'].split()},
    zip_safe=False,
)
