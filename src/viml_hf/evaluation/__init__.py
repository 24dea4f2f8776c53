"""Ranks and metrics by the protocol of the paper."""

CITATION = """@inproceedings{mckee2023viml,
  title = {Language-Guided Music Recommendation for Video via Prompt Analogies},
  author = {McKee, Daniel and Salamon, Justin and Sivic, Josef and Russell, Bryan},
  booktitle = {CVPR},
  year = {2023}
}"""
