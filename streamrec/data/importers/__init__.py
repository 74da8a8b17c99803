"""Public data sets in their original layouts, turned into the event log: one file per data set.

`streamrec data list` names them; `streamrec data import NAME PATH OUT` reads the files at PATH and makes the folder
OUT:

| file | |
|---|---|
| `part-0.parquet` | the event log (`streamrec.data.events`), sorted by time; OUT itself can be read as a log |
| `items.csv` | what the data set says about items: `item`, `category` and further columns |
| `users.csv` | what it says about users: `user` and further columns |
| `about.json` | source, licence, rows read and dropped by cause, span of time, what was mapped to what |

A data set is a class in a module of its own that derives from `streamrec.data.importers.dataset.DataSet`; nothing is
registered anywhere.
"""
