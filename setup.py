"""Packaging: everything that is said here comes from settings.ini."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
config = ConfigParser(delimiters='=')
config.read(here / 'settings.ini', encoding='utf-8')
settings = config['DEFAULT']
course = settings['course_requirements'].split()

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
    packages=[settings['lib_name']],
    package_data={settings['lib_name']: ['*.css', '*.js']},
    python_requires=f'>={settings["min_python"]}',
    install_requires=settings['requirements'].split(),
    extras_require={'course': course, 'dev': course + settings['dev_requirements'].split()},
    zip_safe=False,
)
