"""Lists the general prompts that are answered to see whether a model still writes: all ask for some
sentences.
"""

from __future__ import annotations

PROMPTS = (
    "Explain in a few sentences why the sky is blue.",
    "Write a short story about a fisherman who finds a letter in a bottle.",
    "What should I keep in mind when I plan a train journey with two small children?",
    "List the steps for baking a simple loaf of bread.",
    "Describe what happens to water when it is heated from ice to steam.",
    "How do bees make honey, and why do they store it?",
    "Write a polite letter that asks a landlord to repair a leaking tap.",
    "What are the advantages and disadvantages of working from home?",
    "Explain to a ten-year-old how a bicycle stays upright.",
    "Describe a busy market in a small town on a Saturday morning.",
    "How can I keep my houseplants alive while I am away for two weeks?",
    "What caused the decline of sailing ships in trade?",
    "Summarize what a library offers to the people of its town.",
    "Give advice to somebody who starts to learn the piano as an adult.",
    "Explain the difference between weather and climate.",
    "Tell a story about two neighbours who share a garden.",
    "What does a doctor do in an ordinary check-up?",
    "How are mountains formed? Answer in a few sentences.",
    "Write an invitation to a birthday party for an old friend.",
    "Why do leaves change their colour in autumn?",
    "Describe how to change the wheel of a car safely.",
    "What makes a good teacher? Give some reasons.",
    "Explain how a refrigerator keeps food cold.",
    "Tell me about a day in the life of a lighthouse keeper.",
    "Which questions should I ask before I rent a flat?",
    "How does a vaccine protect the body from a disease?",
    "Write a paragraph about the sea in winter.",
    "What is inflation, and how does it affect savings?",
    "Describe the rules of a simple board game that you know.",
    "How do I remove a stain of red wine from a tablecloth?",
    "Explain why the moon shows different phases.",
    "Write a short dialogue between a customer and a baker.",
)
